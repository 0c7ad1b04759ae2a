//! What is read of a file that is mapped, told to the system before it is touched.
//!
//! Where nothing is said, the first touch of a page fetches what lies around it, megabytes on some systems, and waits for all of
//! it. When a session is created it takes a header and an index of each weight, a page or a few of each.

/// Smaller weights hold no large page, or hardly.
const LARGE: usize = 4 << 20;

/// What the system is told. Neither changes more than when memory is read, and by what pages.
#[derive(Clone, Copy)]
enum Advice {
    WillNeed,
    HugePage,
}

/// Has the system fetch just the pages that hold these bytes, and does not wait for them. A hint: where the bytes come from no
/// file, or the system is not asked, nothing happens.
pub fn fetch(parts: &[&[u8]]) {
    for part in parts {
        advise(part, Advice::WillNeed);
    }
}

/// Says before all of a weight is read that it may lie in large pages (2 MiB). Linux then reads what is not in memory yet by large
/// pages, and maps it by them, where its file system keeps files in such: the first run waits less, and the processor fetches ahead
/// beyond 4 KiB. The memory is the file's as before, one for all processes. A hint, as above.
pub fn will_read_all(weight: &[u8]) {
    if weight.len() >= LARGE {
        advise(weight, Advice::HugePage);
    }
}

/// Advises on the pages that hold a part.
#[cfg(unix)]
fn advise(part: &[u8], advice: Advice) {
    let number = match advice {
        Advice::WillNeed => libc::MADV_WILLNEED,
        #[cfg(target_os = "linux")]
        Advice::HugePage => libc::MADV_HUGEPAGE,
        #[cfg(not(target_os = "linux"))]
        Advice::HugePage => return,
    };
    let Some(page) = crate::pages::page_size() else { return };
    if part.is_empty() {
        return;
    }
    let before = part.as_ptr().addr() % page;
    let first = part.as_ptr().wrapping_sub(before);
    // SAFETY: no advice changes what memory holds; the range is that of the pages of the part.
    _ = unsafe { libc::madvise(first.cast_mut().cast(), part.len() + before, number) };
}

/// Where there is no such call.
#[cfg(not(unix))]
fn advise(_: &[u8], _: Advice) {}

#[cfg(test)]
mod tests {
    use super::{LARGE, fetch, will_read_all};

    #[test]
    fn any_bytes_may_be_fetched() {
        let bytes = vec![1_u8; 10_000];
        fetch(&[&bytes, &bytes[1..2], &[], &bytes[4095..4097]]);
        assert!(bytes.iter().all(|&byte| byte == 1));
    }

    #[test]
    fn any_weight_may_be_read() {
        let bytes = vec![1_u8; LARGE + 5000];
        for weight in [&bytes[..], &bytes[1..], &bytes[..LARGE - 1], &[]] {
            will_read_all(weight);
        }
        assert!(bytes.iter().all(|&byte| byte == 1));
    }
}
