//! Guard bytes behind host memory: a program that writes past the end of a buffer of `aclrtMallocHost` is told so, and by
//! how much, instead of dying in the allocator.

/// What the guard is filled with.
const PATTERN: u8 = 0xa5;
/// Bytes of a guard: as many as the buffer has, so that numbers of twice the size stay inside, within these limits.
const SIZES: (usize, usize) = (4096, 16 << 20);

/// Bytes of the guard behind a buffer.
pub fn guard_size(size: usize) -> usize {
    size.clamp(SIZES.0, SIZES.1)
}

/// Fills a guard.
pub fn fill(guard: &mut [u8]) {
    guard.fill(PATTERN);
}

/// Bytes of a guard up to the last one that was written; 0 of one that is whole.
pub fn written(guard: &[u8]) -> usize {
    guard.iter().rposition(|&byte| byte != PATTERN).map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_measured() {
        let mut guard = vec![0; guard_size(1)];
        fill(&mut guard);
        assert_eq!(written(&guard), 0);
        guard[99] = 0;
        assert_eq!(written(&guard), 100);
    }

    #[test]
    fn numbers_of_twice_the_size_stay_inside() {
        for size in [1, 4096, 1 << 20] {
            assert!(guard_size(size) >= size);
        }
    }
}
