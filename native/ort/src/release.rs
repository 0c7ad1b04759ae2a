//! Pages of a mapped file that no run reads again, let go of: a weight that was decoded is used by its decoded bytes alone, and
//! its compressed ones would count beside them in what the process occupies (RSS) for as long as the session lives.
//!
//! The file stays mapped and in the page cache. Who touches a page again finds it there, or has it read once more.

/// Smaller weights are not worth asking the system for.
const WORTH_ASKING: usize = 64 << 10;

/// Lets go of the pages that hold nothing but these bytes, if all of them come from a file and none was written to. Otherwise,
/// and on systems that do not tell, nothing happens.
pub fn read_no_more(weight: &[u8]) {
    if weight.len() >= WORTH_ASKING {
        system::let_go(weight);
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    /// Bits of an entry of `/proc/self/pagemap`, of which each page has one of 8 bytes
    /// (<https://docs.kernel.org/admin-guide/mm/pagemap.html>).
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const OF_FILE_OR_SHARED: u64 = 1 << 61;

    const ENTRY: usize = size_of::<u64>();

    pub fn let_go(bytes: &[u8]) {
        let Some((first, len, page)) = whole_pages(bytes) else { return };
        if !all_are_of_a_file(first.addr() / page, len / page) {
            return;
        }
        // SAFETY: the range is part of `bytes`. Of its pages, those in memory are a file's as it is there, or shared: who
        // touches one again finds what it held. The others hold what is not in memory, and stay so.
        _ = unsafe { libc::madvise(first.cast_mut().cast(), len, libc::MADV_DONTNEED) };
    }

    /// Where the first page begins that holds nothing else, how many bytes such pages have, and how many a page has.
    pub fn whole_pages(bytes: &[u8]) -> Option<(*const u8, usize, usize)> {
        // SAFETY: it takes a number and gives one.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok().filter(|page| *page > 0)?;
        let before = bytes.as_ptr().addr().next_multiple_of(page) - bytes.as_ptr().addr();
        let len = bytes.len().checked_sub(before)? / page * page;
        (len > 0).then(|| (bytes.as_ptr().wrapping_add(before), len, page))
    }

    /// Whether of so many pages each one that is in memory is that of a file as it is there, or shared with others: a page of a
    /// private mapping that was written to is neither.
    fn all_are_of_a_file(first: usize, pages: usize) -> bool {
        let kept = |entry: u64| entry & SWAPPED == 0 && (entry & PRESENT == 0 || entry & OF_FILE_OR_SHARED != 0);
        entries(first, pages, kept).unwrap_or(false)
    }

    /// Whether something holds for the entries of so many pages; nothing where the system does not tell.
    pub fn entries(first: usize, pages: usize, holds: impl Fn(u64) -> bool) -> Option<bool> {
        // Opened anew each time: of a file that was open before a fork, the child would read its parent's pages.
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
        use std::io::Write;

        const LEN: usize = (8 << 20) + 100;

        /// Of a file's bytes, somewhere behind the beginning of a page.
        fn file() -> File {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&vec![7; LEN]).unwrap();
            file
        }

        /// Whether any whole page of `bytes` is in memory of the process.
        fn in_memory(bytes: &[u8]) -> bool {
            let (first, len, page) = whole_pages(bytes).unwrap();
            entries(first.addr() / page, len / page, |entry| entry & PRESENT == 0) == Some(false)
        }

        /// Whether the system tells; a sandbox may not.
        fn tells() -> bool {
            let bytes = vec![1_u8; LEN];
            in_memory(&bytes)
        }

        #[test]
        fn pages_of_a_file_are_let_go_of_and_come_back() {
            // SAFETY: nobody else has the file.
            let shared = unsafe { Mmap::map(&file()) }.unwrap();
            // As onnxruntime maps it: it might be written to.
            // SAFETY: as above.
            let private = unsafe { MmapOptions::new().map_copy(&file()) }.unwrap();
            for bytes in [&shared[..], &private[100..]] {
                assert!(bytes.iter().all(|&byte| byte == 7));
                super::super::read_no_more(bytes);
                assert!(!tells() || !in_memory(bytes));
                assert!(bytes.iter().all(|&byte| byte == 7));
            }
        }

        #[test]
        fn what_was_written_stays() {
            // SAFETY: nobody else has the file.
            let mut private = unsafe { MmapOptions::new().map_copy(&file()) }.unwrap();
            assert!(private.iter().all(|&byte| byte == 7));
            private[5 << 20] = 8;
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
            let bytes = vec![0_u8; 20 << 10];
            let (first, len, page) = whole_pages(&bytes[1..]).unwrap();
            assert!(first.addr().is_multiple_of(page) && len.is_multiple_of(page));
            assert!(first > bytes.as_ptr() && first.addr() + len <= bytes.as_ptr().addr() + bytes.len());
            assert!(whole_pages(&bytes[..10]).is_none_or(|(_, len, _)| len == 0) && whole_pages(&[]).is_none());
        }
    }
}

/// Where a system is not asked.
#[cfg(not(target_os = "linux"))]
mod system {
    pub fn let_go(_: &[u8]) {}
}
