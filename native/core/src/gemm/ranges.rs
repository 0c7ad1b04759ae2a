//! Ranges in pieces.

use std::ops::Range;

/// Cuts a range at the multiples of `length`.
pub(super) fn pieces(range: Range<usize>, length: usize) -> impl Iterator<Item = Range<usize>> {
    let mut start = range.start;
    std::iter::from_fn(move || {
        let end = range.end.min((start / length + 1) * length);
        (start < range.end).then(|| std::mem::replace(&mut start, end)..end)
    })
}
