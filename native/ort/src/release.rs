//! Gives back the pages of a mapped file once the weight in them is decoded: the decoded bytes alone are used from then on, and
//! the compressed ones would count beside them in what the process occupies (RSS) for as long as the session lives.
//!
//! The file stays mapped and in the page cache. Who touches a page again finds it there, or has it read once more.

/// Smaller weights are not worth asking the system for.
const WORTH_ASKING: usize = 64 << 10;

/// Gives back the pages that hold nothing but these bytes, all of which were just read, if each of them is a page of a regular
/// file that was not written to. Otherwise, and on systems that do not tell, nothing happens.
pub fn read_no_more(weight: &[u8]) {
    if weight.len() >= WORTH_ASKING {
        system::give_back(weight);
    }
}

#[cfg(target_os = "linux")]
mod system {
    use crate::pages::page_size;
    use std::ffi::CStr;
    use std::fs::File;
    use std::io::Read as _;
    use std::mem::MaybeUninit;
    use std::os::unix::fs::FileExt as _;

    /// Bits of an entry of `/proc/self/pagemap`, of which each page has one of 8 bytes
    /// (<https://docs.kernel.org/admin-guide/mm/pagemap.html>).
    const PRESENT: u64 = 1 << 63;
    /// A page of a private mapping that was written to is anonymous, and has not this bit.
    const OF_FILE_OR_SHARED: u64 = 1 << 61;

    const ENTRY: usize = size_of::<u64>();

    pub fn give_back(bytes: &[u8]) {
        let Some((first, len, page)) = whole_pages(bytes) else { return };
        let unchanged = |entry| entry & (PRESENT | OF_FILE_OR_SHARED) == PRESENT | OF_FILE_OR_SHARED;
        if all_entries(first.addr() / page, len / page, unchanged) != Some(true)
            || !maps_regular_files(first.addr(), len)
        {
            return;
        }
        // SAFETY: the range is part of `bytes`. Its pages are those of a regular file, unchanged: who touches one again finds
        // what it held. A driver's pages would not come back, and written ones would be as the file is.
        _ = unsafe { libc::madvise(first.cast_mut().cast(), len, libc::MADV_DONTNEED) };
    }

    /// Where the first page begins that holds nothing else, how many bytes such pages have, and how many a page has.
    pub fn whole_pages(bytes: &[u8]) -> Option<(*const u8, usize, usize)> {
        let page = page_size()?;
        let before = bytes.as_ptr().addr().next_multiple_of(page) - bytes.as_ptr().addr();
        let len = bytes.len().checked_sub(before)? / page * page;
        (len > 0).then(|| (bytes.as_ptr().wrapping_add(before), len, page))
    }

    /// Whether a range maps nothing but regular files that are still where they were. What a device's driver maps looks like
    /// pages of a file in `/proc/self/pagemap`.
    pub fn maps_regular_files(first: usize, len: usize) -> bool {
        let mut at = first;
        each_line("/proc/self/maps", |line| {
            let Some((start, end, path)) = mapping(line) else { return Some(false) };
            if end <= at {
                return None;
            }
            if start > at || !is_regular_file(path) {
                return Some(false);
            }
            at = end;
            (at - first >= len).then_some(true)
        })
        .unwrap_or(false)
    }

    /// Calls a function with each line, the byte behind it being 0, until it returns something. Nothing is allocated: where
    /// memory is short, that would end the process.
    fn each_line<R>(file: &str, mut each: impl FnMut(&[u8]) -> Option<R>) -> Option<R> {
        let mut file = File::open(file).ok()?;
        let mut buffer = [0; 8 << 10];
        let mut filled = 0;
        loop {
            let count = file.read(&mut buffer[filled..]).ok()?;
            if count == 0 {
                return None; // all is read, or a line is longer than any path can be
            }
            filled += count;
            let mut begin = 0;
            while let Some(len) = buffer[begin..filled].iter().position(|&byte| byte == b'\n') {
                buffer[begin + len] = 0;
                if let Some(found) = each(&buffer[begin..=begin + len]) {
                    return Some(found);
                }
                begin += len + 1;
            }
            buffer.copy_within(begin..filled, 0);
            filled -= begin;
        }
    }

    /// Start, end and path of a line of `/proc/self/maps`; the path is empty where no file is mapped.
    fn mapping(line: &[u8]) -> Option<(usize, usize, &CStr)> {
        let text = line.iter().position(|&byte| byte == b'/').unwrap_or(line.len() - 1);
        let (fields, path) = line.split_at(text);
        let (start, rest) = str::from_utf8(fields).ok()?.split_once('-')?;
        let (end, _) = rest.split_once(' ')?;
        let address = |digits| usize::from_str_radix(digits, 16).ok();
        Some((address(start)?, address(end)?, CStr::from_bytes_with_nul(path).ok()?))
    }

    /// As [`std::fs::metadata`] tells it, which allocates for long paths.
    fn is_regular_file(path: &CStr) -> bool {
        let mut found = MaybeUninit::<libc::stat>::uninit();
        // SAFETY: the path ends with 0, and `found` has room for the result.
        if unsafe { libc::stat(path.as_ptr(), found.as_mut_ptr()) } != 0 {
            return false;
        }
        // SAFETY: the call filled it.
        unsafe { found.assume_init() }.st_mode & libc::S_IFMT == libc::S_IFREG
    }

    /// Whether something holds for the entries of so many pages; nothing where the system does not tell.
    fn all_entries(first: usize, pages: usize, holds: impl Fn(u64) -> bool) -> Option<bool> {
        // Opened anew each time: of a file that was open before a fork, the child would read its parent's page tables.
        let map = File::open("/proc/self/pagemap").ok()?;
        let mut buffer = [0; 512 * ENTRY];
        for done in (0..pages).step_by(512) {
            let part = &mut buffer[..(pages - done).min(512) * ENTRY];
            map.read_exact_at(part, ((first + done) * ENTRY) as u64).ok()?;
            let (entries, _) = part.as_chunks();
            if !entries.iter().all(|entry| holds(u64::from_ne_bytes(*entry))) {
                return Some(false);
            }
        }
        Some(true)
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use memmap2::{Mmap, MmapMut, MmapOptions};
        use std::io::Write as _;
        use tempfile::NamedTempFile;

        /// Less than a page of 2 MiB, of which kernels before mid-2024 do not tell that it is a file's.
        const LEN: usize = (1 << 20) + 100;

        fn file() -> NamedTempFile {
            let mut file = NamedTempFile::new().unwrap();
            file.write_all(&vec![7; LEN]).unwrap();
            file
        }

        /// Whether any whole page of `bytes` is in memory of the process.
        fn in_memory(bytes: &[u8]) -> bool {
            let (first, len, page) = whole_pages(bytes).unwrap();
            all_entries(first.addr() / page, len / page, |entry| entry & PRESENT == 0) == Some(false)
        }

        /// Whether the system tells; a sandbox may not.
        fn tells() -> bool {
            let bytes = vec![1_u8; LEN];
            in_memory(&bytes)
        }

        #[test]
        fn pages_of_a_file_are_given_back_and_come_again() {
            let (one, other) = (file(), file());
            // SAFETY: nobody else has the file.
            let shared = unsafe { Mmap::map(one.as_file()) }.unwrap();
            // As onnxruntime maps it: it might be written to.
            // SAFETY: as above.
            let private = unsafe { MmapOptions::new().map_copy(other.as_file()) }.unwrap();
            for bytes in [&shared[..], &private[100..]] {
                assert!(bytes.iter().all(|&byte| byte == 7));
                super::super::read_no_more(bytes);
                assert!(!tells() || !in_memory(bytes));
                assert!(bytes.iter().all(|&byte| byte == 7));
            }
        }

        #[test]
        fn pages_stay_unless_all_are_in_memory() {
            let file = file();
            // SAFETY: nobody else has the file.
            let shared = unsafe { MmapOptions::new().map(file.as_file()) }.unwrap();
            assert!(shared.iter().all(|&byte| byte == 7));
            super::super::read_no_more(&shared[LEN / 2..]);
            super::super::read_no_more(&shared);
            assert!(!tells() || in_memory(&shared[..LEN / 2]));
        }

        /// A file without a name has none to look at, and a driver's pages would look the same but for it.
        #[test]
        fn pages_without_a_regular_file_stay() {
            let deleted = tempfile::tempfile().unwrap();
            deleted.set_len(LEN as u64).unwrap();
            // SAFETY: nobody else has the file.
            let mapped = unsafe { Mmap::map(&deleted) }.unwrap();
            let zeros = File::open("/dev/zero").unwrap();
            // SAFETY: it is a device that gives zeros.
            let device = unsafe { MmapOptions::new().len(LEN).map(&zeros) }.unwrap();
            for bytes in [&mapped[..], &device[..]] {
                assert!(bytes.iter().all(|&byte| byte == 0));
                super::super::read_no_more(bytes);
                assert!(!tells() || in_memory(bytes));
                assert!(!maps_regular_files(bytes.as_ptr().addr(), bytes.len()));
            }
        }

        #[test]
        fn what_was_written_stays() {
            let file = file();
            // SAFETY: nobody else has the file.
            let mut private = unsafe { MmapOptions::new().map_copy(file.as_file()) }.unwrap();
            assert!(private.iter().all(|&byte| byte == 7));
            private[LEN / 2] = 8;
            super::super::read_no_more(&private);
            assert_eq!(private.iter().map(|&byte| u64::from(byte)).sum::<u64>(), LEN as u64 * 7 + 1);
        }

        #[test]
        fn memory_of_no_file_stays() {
            let mut mapped = MmapMut::map_anon(LEN).unwrap();
            mapped.fill(3);
            let allocated = vec![3_u8; LEN];
            for bytes in [&mapped[..], &allocated[1..], &allocated[..100], &[]] {
                super::super::read_no_more(bytes);
                assert!(bytes.iter().all(|&byte| byte == 3));
            }
        }

        #[test]
        fn pages_are_those_that_hold_nothing_else() {
            let (_, _, page) = whole_pages(&[0; 1 << 20]).unwrap();
            let bytes = vec![0_u8; 3 * page];
            let (first, len, _) = whole_pages(&bytes[1..]).unwrap();
            assert!(first.addr().is_multiple_of(page) && len.is_multiple_of(page));
            assert!(first > bytes.as_ptr() && first.addr() + len <= bytes.as_ptr().addr() + bytes.len());
            assert!(whole_pages(&bytes[..10]).is_none() && whole_pages(&[]).is_none());
        }

        #[test]
        fn lines_of_the_map_are_read() {
            let file = b"7f00-8f00 r--p 00000000 08:01 42 \t  /a folder/x-y.bin\0".as_slice();
            assert_eq!(mapping(file), Some((0x7f00, 0x8f00, c"/a folder/x-y.bin")));
            let none = b"7f00-8f00 rw-p 00000000 00:00 0 [heap]\0".as_slice();
            assert_eq!(mapping(none), Some((0x7f00, 0x8f00, c"")));
            assert!([b"\0".as_slice(), b"7f00\0", b"x-y z\0"].into_iter().all(|line| mapping(line).is_none()));
        }

        #[test]
        fn lines_come_one_by_one_however_they_are_read() {
            let mut file = NamedTempFile::new().unwrap();
            let lines: Vec<String> = (0..999).map(|count| "x".repeat(count % 100)).collect();
            file.write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
            let path = &file.path().to_str().unwrap().to_owned();
            let mut read = Vec::new();
            let ended: Option<()> = each_line(path, |line| {
                let (zero, text) = line.split_last().unwrap();
                assert_eq!(*zero, 0);
                read.push(String::from_utf8(text.to_vec()).unwrap());
                None
            });
            assert_eq!((ended, read), (None, lines));
            file.write_all("y".repeat(9 << 10).as_bytes()).unwrap();
            assert_eq!(each_line(path, |line| (line.len() == 100).then_some(1)), Some(1));
            assert_eq!(each_line::<()>(path, |_| None), None);
        }
    }
}

/// Where a system is not asked.
#[cfg(not(target_os = "linux"))]
mod system {
    pub fn give_back(_: &[u8]) {}
}
