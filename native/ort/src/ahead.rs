//! What is read of a file that is mapped, told to the system before it is touched.
//!
//! Where nothing is said, the first touch of a page fetches what lies around it, megabytes on some systems, and waits for all of
//! it. When a session is created it takes a header and an index of each weight, a page or a few of each.

/// Has the system fetch just the pages that hold these bytes, and does not wait for them. A hint: where the bytes come from no
/// file, or the system is not asked, nothing happens.
#[cfg(unix)]
pub fn fetch(parts: &[&[u8]]) {
    use std::ffi::{c_int, c_void};

    unsafe extern "C" {
        safe fn getpagesize() -> c_int;
        fn madvise(address: *mut c_void, length: usize, advice: c_int) -> c_int;
    }
    /// The same number on Linux, macOS and the BSDs.
    const WILLNEED: c_int = 3;

    let Ok(page) = usize::try_from(getpagesize()) else { return };
    for part in parts.iter().filter(|part| !part.is_empty()) {
        let before = part.as_ptr().addr() % page.max(1);
        let first = part.as_ptr().wrapping_sub(before);
        // SAFETY: the advice changes nothing but when pages are read; the range is that of the pages of the part.
        _ = unsafe { madvise(first.cast_mut().cast(), part.len() + before, WILLNEED) };
    }
}

/// As above, where there is no such call.
#[cfg(not(unix))]
pub fn fetch(_: &[&[u8]]) {}

#[cfg(test)]
mod tests {
    use super::fetch;

    #[test]
    fn any_bytes_may_be_fetched() {
        let bytes = vec![1_u8; 10_000];
        fetch(&[&bytes, &bytes[1..2], &[], &bytes[4095..4097]]);
        assert!(bytes.iter().all(|&byte| byte == 1));
    }
}
