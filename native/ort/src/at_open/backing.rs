//! A file below constants that are restored: memory that the system can take back, and that is dropped once it was read.
//!
//! onnxruntime copies or packs each constant when a session is created, and does not say when it has, so that what it was given
//! has to stay. Pages of a mapped file need not: who touches them again finds the same bytes. The file has no name, and goes
//! with the process.

use std::fs::File;
use std::path::PathBuf;

use super::constants::Restored;

/// Constants of fewer bytes in all stay in memory.
const WORTH_A_FILE: u64 = 1 << 20;

/// Constants begin at multiples of this, a line of the cache.
const ALIGN: u64 = 64;

/// A file that constants are written to, and where each of them begins.
pub struct Backing {
    file: File,
    offsets: Vec<u64>,
    len: u64,
}

impl Backing {
    /// A file for constants of these sizes; none where they are small, or there can be no such file.
    pub fn of(sizes: impl Iterator<Item = u64>) -> Option<Self> {
        let mut len: u64 = 0;
        let mut offsets = Vec::new();
        for size in sizes {
            offsets.push(len);
            len = len.checked_add(size)?.checked_next_multiple_of(ALIGN)?;
        }
        (len >= WORTH_A_FILE).then(|| Some(Self { file: unnamed_file()?, offsets, len }))?
    }

    /// Writes constant `index`; whether all of it is there.
    pub fn write(&self, index: usize, bytes: &[u8]) -> bool {
        self.offsets.get(index).is_some_and(|&offset| system::write(&self.file, bytes, offset))
    }

    /// The bytes of all constants, for good; none where the file cannot be mapped.
    pub fn mapped(self) -> Option<Mapped> {
        let bytes = system::map(&self.file, self.len)?;
        Some(Mapped { bytes, offsets: self.offsets })
    }
}

/// The constants in a file that is mapped.
pub struct Mapped {
    bytes: &'static [u8],
    offsets: Vec<u64>,
}

impl Mapped {
    /// Constant `index`, which has so many bytes.
    pub fn constant(&self, index: usize, len: usize) -> Option<Restored> {
        let start = usize::try_from(*self.offsets.get(index)?).ok()?;
        self.bytes.get(start..start.checked_add(len)?).map(Restored::Borrowed)
    }
}

/// Lets go of the pages of all constants that a file backs; they come back where they are touched. Returns how many bytes these
/// constants have.
pub fn drop_pages() -> u64 {
    system::drop_pages()
}

/// A file without a name: where the user wants temporary files, or on a disk rather than in memory.
fn unnamed_file() -> Option<File> {
    let wanted = std::env::var_os("TMPDIR").map(PathBuf::from);
    let folders = wanted.map_or_else(|| vec![PathBuf::from("/var/tmp"), std::env::temp_dir()], |folder| vec![folder]);
    folders.into_iter().find_map(|folder| system::unnamed_file(&folder))
}

#[cfg(unix)]
mod system {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::path::Path;
    use std::sync::{Mutex, PoisonError};

    use memmap2::{Mmap, UncheckedAdvice};

    /// What is mapped, for good.
    static MAPS: Mutex<Vec<&'static Mmap>> = Mutex::new(Vec::new());

    pub fn unnamed_file(folder: &Path) -> Option<File> {
        tempfile::tempfile_in(folder).ok()
    }

    pub fn write(file: &File, bytes: &[u8], offset: u64) -> bool {
        file.write_all_at(bytes, offset).is_ok()
    }

    pub fn map(file: &File, len: u64) -> Option<&'static [u8]> {
        // Zeros behind the last constant, up to a multiple of the alignment.
        file.set_len(len).ok()?;
        // SAFETY: the file has no name and this process alone has it open, so nobody changes it, or makes it shorter.
        let map: &'static Mmap = Box::leak(Box::new(unsafe { Mmap::map(file) }.ok()?));
        MAPS.lock().unwrap_or_else(PoisonError::into_inner).push(map);
        Some(map)
    }

    pub fn drop_pages() -> u64 {
        let maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
        for map in maps.iter() {
            // SAFETY: the mapping is of a file, and is read alone: pages that are touched again are read from the file.
            _ = unsafe { map.unchecked_advise(UncheckedAdvice::DontNeed) };
        }
        maps.iter().fold(0, |sum, map| sum.saturating_add(map.len() as u64))
    }
}

/// Where files that are mapped are not known to behave so.
#[cfg(not(unix))]
mod system {
    use std::fs::File;
    use std::path::Path;

    pub fn unnamed_file(_: &Path) -> Option<File> {
        None
    }

    pub fn write(_: &File, _: &[u8], _: u64) -> bool {
        false
    }

    pub fn map(_: &File, _: u64) -> Option<&'static [u8]> {
        None
    }

    pub fn drop_pages() -> u64 {
        0
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    const LARGE: usize = (1 << 20) + 5;

    #[test]
    fn what_was_written_is_read_also_after_its_pages_were_dropped() {
        let contents = [vec![1_u8; 7], vec![2; LARGE], vec![3; 100]];
        let backing = Backing::of(contents.iter().map(|each| each.len() as u64)).unwrap();
        assert!(contents.iter().enumerate().rev().all(|(index, each)| backing.write(index, each)));
        assert!(!backing.write(3, &[1]));
        let mapped = backing.mapped().unwrap();
        let found = |index: usize| mapped.constant(index, contents[index].len()).unwrap();
        for _ in 0..2 {
            for (index, content) in contents.iter().enumerate() {
                assert!(*found(index) == **content);
                assert!(found(index).as_ptr().addr().is_multiple_of(64));
            }
            assert!(drop_pages() >= LARGE as u64);
        }
        assert!(mapped.constant(3, 1).is_none() && mapped.constant(2, LARGE).is_none());
    }

    #[test]
    fn few_bytes_stay_in_memory() {
        assert!(Backing::of([WORTH_A_FILE - 64].into_iter()).is_none());
        assert!(Backing::of([u64::MAX, 2].into_iter()).is_none());
        assert!(Backing::of(std::iter::empty()).is_none());
    }

    #[test]
    fn a_folder_that_is_not_there_gives_no_file() {
        assert!(system::unnamed_file(std::path::Path::new("/nowhere/at/all")).is_none());
    }
}
