//! The pages of memory, in which the system fetches and gives back what a file holds.

/// How many bytes a page has; nothing where the system does not tell.
pub fn page_size() -> Option<usize> {
    // SAFETY: it takes a number and gives one.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok().filter(|size| *size > 0)
}
