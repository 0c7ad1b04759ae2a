//! Decoded weights in files of a folder, shared by the processes that name it: session config entry `mcd.decoded_folder`.
//!
//! Each process decodes its weights itself. Then a file with the same bytes takes the place of its memory; where there is none,
//! it writes one. So files are memory that is shared, and nothing is taken from them unseen. Whoever uses a file has it locked;
//! the last one removes it, and what was left by a process that ended otherwise is removed by the next that names the folder.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use mcd_core::Room;

use crate::ffi::Error;

/// Weights of fewer bytes are not worth a file each.
const WORTH_A_FILE: usize = 64 << 10;

/// What the names of all files end with.
const SUFFIX: &str = ".mcd-decoded";

/// A folder for decoded weights.
pub struct Folder {
    path: PathBuf,
    /// Why a weight could not be put there, unless that was told.
    failure: Mutex<Option<String>>,
}

impl Folder {
    /// The folder that a session config entry names, one for each path; it is made if its parent is there.
    pub fn named(text: &str) -> Result<&'static Self, Error> {
        static FOLDERS: Mutex<Vec<&'static Folder>> = Mutex::new(Vec::new());

        let refused = |why: &dyn fmt::Display| {
            Error::invalid(format!("session config entry mcd.decoded_folder is {text:?}: {why}"))
        };
        let path = std::path::absolute(text).map_err(|error| refused(&error))?;
        let mut folders = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
        let known = folders.iter().find(|folder| folder.path == path).copied();
        system::prepare(&path, known.is_none()).map_err(|error| refused(&error))?;
        Ok(known.unwrap_or_else(|| {
            let folder = Box::leak(Box::new(Self { path, failure: Mutex::new(None) }));
            folders.push(folder);
            folder
        }))
    }

    /// Room for the `len` bytes that a weight is decoded to, in a file once they are written. Weights of which `key` is the same
    /// are likely to have the same bytes. None for few bytes, which are not worth a file.
    pub fn room(&'static self, key: impl Hash, len: usize) -> Option<Box<dyn Room>> {
        if len < WORTH_A_FILE {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        (key, len, env!("CARGO_PKG_VERSION")).hash(&mut hasher);
        system::room(self, format!("{:016x}{SUFFIX}", hasher.finish()), len)
    }

    /// Takes the reason why a weight could not be put there, if there is one.
    pub fn take_failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl PartialEq for Folder {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for Folder {}

impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}

#[cfg(unix)]
mod system {
    use std::fs::{self, DirBuilder, File, TryLockError};
    use std::io::{self, Write};
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    use std::path::{Path, PathBuf};
    use std::sync::PoisonError;

    use mcd_core::Room;
    use memmap2::{Mmap, MmapMut};

    use crate::decoded_folder::{Folder, SUFFIX};

    /// Those that others than the owner may write to.
    const WRITABLE_BY_OTHERS: u32 = 0o022;

    /// How often a file is looked for and written anew, where other processes do the same at once.
    const ATTEMPTS: usize = 10;

    /// Makes the folder unless it is there, and checks it; the first time also that it can be written to, and removes what nobody
    /// uses.
    pub fn prepare(path: &Path, first: bool) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let found = fs::metadata(path)?;
        if !found.is_dir() {
            return Err(io::Error::other("it is not a folder"));
        }
        if found.mode() & WRITABLE_BY_OTHERS != 0 {
            return Err(io::Error::other(
                "others than its owner may write to it, and so to weights; take a folder of mode 700 inside of it",
            ));
        }
        if first {
            tempfile::tempfile_in(path)?;
            remove_unused(path)?;
        }
        Ok(())
    }

    fn remove_unused(folder: &Path) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.to_string_lossy().ends_with(SUFFIX)
                && let Ok(file) = File::open(&path)
            {
                remove_if_unused(&path, &file);
            }
        }
        Ok(())
    }

    /// Removes a file that nobody has locked.
    fn remove_if_unused(path: &Path, file: &File) {
        if file.try_lock().is_ok() && is_at(path, file) {
            // Where it cannot be removed, the next process tries again.
            _ = fs::remove_file(path);
        }
    }

    /// Whether the file is still the one of this name.
    fn is_at(path: &Path, file: &File) -> bool {
        let identity = |found: io::Result<fs::Metadata>| found.ok().map(|found| (found.dev(), found.ino()));
        let found = identity(fs::metadata(path));
        found.is_some() && found == identity(file.metadata())
    }

    pub fn room(folder: &'static Folder, name: String, len: usize) -> Option<Box<dyn Room>> {
        // Memory that goes back to the system as a whole, as what an allocator is given back may not.
        let bytes = MmapMut::map_anon(len).ok()?;
        Some(Box::new(InFolder { folder, path: folder.path.join(name), bytes: Bytes::Own(bytes) }))
    }

    /// Bytes that are in a file, once they are written.
    #[derive(Debug)]
    struct InFolder {
        folder: &'static Folder,
        path: PathBuf,
        bytes: Bytes,
    }

    #[derive(Debug)]
    enum Bytes {
        Own(MmapMut),
        Shared(SharedFile),
    }

    impl Room for InFolder {
        fn bytes(&self) -> &[u8] {
            match &self.bytes {
                Bytes::Own(bytes) => bytes,
                Bytes::Shared(file) => &file.map,
            }
        }

        fn bytes_mut(&mut self) -> &mut [u8] {
            match &mut self.bytes {
                Bytes::Own(bytes) => bytes,
                Bytes::Shared(_) => unreachable!("they are settled"),
            }
        }

        fn settle(&mut self) {
            match SharedFile::with(&self.path, &self.folder.path, self.bytes()) {
                Ok(file) => self.bytes = Bytes::Shared(file),
                Err(error) => {
                    let text = format!(
                        "mcd.decoded_folder {:?}: {error}; a decoded weight is in memory of this process alone",
                        self.folder.path
                    );
                    *self.folder.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
                }
            }
        }
    }

    /// A file that is locked while it is used, and not changed any more.
    #[derive(Debug)]
    struct SharedFile {
        map: Mmap,
        file: File,
        path: PathBuf,
    }

    impl SharedFile {
        /// The file at `path` in `folder` if it has these bytes, else one that is made of them.
        fn with(path: &Path, folder: &Path, bytes: &[u8]) -> io::Result<Self> {
            let mut attempts = 1;
            loop {
                if let Some(found) = Self::open(path, bytes)? {
                    return Ok(found);
                }
                let made = Self::create(path, folder, bytes);
                // Another process was faster, or took the file for one that nobody uses.
                let raced = |error: &io::Error| {
                    matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound)
                };
                if attempts == ATTEMPTS || !made.as_ref().is_err_and(raced) {
                    return made;
                }
                attempts += 1;
            }
        }

        /// The file at `path`, if it has these bytes. What is of no use is removed.
        fn open(path: &Path, bytes: &[u8]) -> io::Result<Option<Self>> {
            let file = match File::open(path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            match file.try_lock_shared() {
                Ok(()) if !is_at(path, &file) => return Ok(None),
                Ok(()) => {}
                // Somebody is about to remove it.
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            if file.metadata()?.len() == bytes.len() as u64 {
                let file = Self::mapped(file, path)?;
                if *file.map == *bytes {
                    return Ok(Some(file));
                }
            }
            match fs::remove_file(path) {
                // As happens where nobody else used it.
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(None),
            }
        }

        fn create(path: &Path, folder: &Path, bytes: &[u8]) -> io::Result<Self> {
            let mut file = tempfile::Builder::new().suffix(SUFFIX).tempfile_in(folder)?;
            file.as_file().try_lock_shared()?;
            file.write_all(bytes)?;
            let file = file.persist_noclobber(path).map_err(|error| error.error)?;
            Self::mapped(file, path)
        }

        fn mapped(file: File, path: &Path) -> io::Result<Self> {
            // SAFETY: it was written before it got its name, and no process changes it then; the folder's owner alone could.
            let map = unsafe { Mmap::map(&file) }?;
            Ok(Self { map, file, path: path.to_owned() })
        }
    }

    impl Drop for SharedFile {
        fn drop(&mut self) {
            if self.file.unlock().is_ok() {
                remove_if_unused(&self.path, &self.file);
            }
        }
    }
}

/// Where a file that is mapped cannot be removed or replaced.
#[cfg(not(unix))]
mod system {
    use std::io;
    use std::path::Path;

    use mcd_core::Room;

    use crate::decoded_folder::Folder;

    pub fn prepare(_: &Path, _: bool) -> io::Result<()> {
        Err(io::Error::other("decoded weights cannot be shared by processes on this system; leave the entry out"))
    }

    pub fn room(_: &'static Folder, _: String, _: usize) -> Option<Box<dyn Room>> {
        None
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::Path;

    const LEN: usize = WORTH_A_FILE + 5;

    fn folder() -> (tempfile::TempDir, &'static Folder) {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::named(parent.path().join("decoded").to_str().unwrap()).unwrap();
        (parent, folder)
    }

    /// Room with bytes that all are `byte`.
    fn filled(folder: &'static Folder, key: u8, byte: u8) -> Box<dyn Room> {
        let mut room = folder.room(key, LEN).unwrap();
        assert!(room.bytes().len() == LEN && room.bytes().iter().all(|&byte| byte == 0));
        room.bytes_mut().fill(byte);
        room.settle();
        assert_eq!(folder.take_failure(), None);
        assert!(room.bytes().len() == LEN && room.bytes().iter().all(|&found| found == byte));
        room
    }

    fn files(folder: &Folder) -> Vec<PathBuf> {
        fs::read_dir(&folder.path).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn rooms_with_the_same_bytes_have_one_file_and_the_last_removes_it() {
        let (_parent, folder) = folder();
        let first = filled(folder, 1, 7);
        let [path] = &files(folder)[..] else { panic!("one file") };
        let inode = fs::metadata(path).unwrap().ino();
        let second = filled(folder, 1, 7);
        assert_eq!(files(folder).len(), 1);
        assert_eq!(fs::metadata(path).unwrap().ino(), inode);
        let other = filled(folder, 2, 7);
        assert_eq!(files(folder).len(), 2);
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
        drop(other);
        assert!(files(folder).is_empty());
    }

    #[test]
    fn a_file_with_other_bytes_is_replaced_and_stays_with_who_has_it() {
        let (_parent, folder) = folder();
        let (old, new) = (filled(folder, 1, 7), filled(folder, 1, 8));
        assert!(old.bytes().iter().all(|&byte| byte == 7));
        let [path] = &files(folder)[..] else { panic!("one file") };
        drop(old);
        assert!(path.exists());
        // Damaged, or cut short.
        drop(new);
        for content in [vec![9; LEN], vec![7; LEN - 1], Vec::new()] {
            fs::write(path, content).unwrap();
            drop(filled(folder, 1, 7));
        }
        assert!(files(folder).is_empty());
    }

    #[test]
    fn what_nobody_uses_is_removed_and_nothing_else() {
        let (_parent, folder) = folder();
        let _used = filled(folder, 1, 7);
        fs::write(folder.path.join(format!("left{SUFFIX}")), "").unwrap();
        fs::write(folder.path.join("of somebody else"), "").unwrap();
        system::prepare(&folder.path, false).unwrap();
        assert_eq!(files(folder).len(), 3);
        system::prepare(&folder.path, true).unwrap();
        assert_eq!(files(folder).len(), 2);
        assert!(folder.path.join("of somebody else").exists());
    }

    #[test]
    fn few_bytes_get_no_file() {
        let (_parent, folder) = folder();
        assert!(folder.room(1, WORTH_A_FILE - 1).is_none());
    }

    #[test]
    fn where_no_file_can_be_made_bytes_stay_in_memory_and_the_reason_is_told_once() {
        let (_parent, folder) = folder();
        fs::remove_dir(&folder.path).unwrap();
        let mut room = folder.room(1, LEN).unwrap();
        room.bytes_mut().fill(3);
        room.settle();
        assert!(room.bytes().iter().all(|&byte| byte == 3));
        let why = folder.take_failure().unwrap();
        assert!(why.contains("mcd.decoded_folder") && why.contains("No such file"), "{why}");
        assert_eq!(folder.take_failure(), None);
        // It is made again for the next session.
        let again = Folder::named(folder.path.to_str().unwrap()).unwrap();
        assert!(std::ptr::eq(folder, again));
        drop(filled(folder, 1, 7));
    }

    #[test]
    fn a_folder_that_cannot_serve_is_an_error_that_names_it() {
        let parent = tempfile::tempdir().unwrap();
        let refusal = |path: &Path| Folder::named(path.to_str().unwrap()).unwrap_err().to_string();
        let open = parent.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        for (path, reason) in [
            (open, "others than its owner"),
            (file, "not a folder"),
            (parent.path().join("no/parent"), "No such file"),
        ] {
            let error = refusal(&path);
            assert!(error.contains("mcd.decoded_folder") && error.contains(reason), "{error}");
            assert!(error.contains(&format!("{path:?}")), "{error}");
        }
        assert!(Folder::named("").is_err());
    }

    #[test]
    fn threads_that_begin_at_once_agree_on_one_file() {
        let (_parent, folder) = folder();
        let rooms: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| filled(folder, 1, 7))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(files(folder).len(), 1);
        drop(rooms);
        assert!(files(folder).is_empty());
    }
}
