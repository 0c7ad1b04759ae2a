//! Loops that are written out.

/// Writes a block out for each value of a constant: left as a loop, arrays of registers end up in memory.
macro_rules! unrolled {
    ($name:ident in [$($value:literal)*] $body:block) => {
        $({
            const $name: usize = $value;
            $body
        })*
    };
}
pub(in crate::arch::x86_64) use unrolled;

/// Writes a block out for each of the eight groups.
macro_rules! each_group {
    ($g:ident => $body:block) => {
        unrolled!($g in [0 1 2 3 4 5 6 7] $body)
    };
}
pub(in crate::arch::x86_64) use each_group;
