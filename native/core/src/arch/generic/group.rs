//! The bytes of a group's 64 lanes, in as many registers as they take.

/// What every kernel can do with them.
///
/// # Safety
/// Of all methods: the processor has the features of the kernel whose group it is, and they are inlined into a function
/// that has them enabled, else each is a call.
pub trait Group: Copy {
    /// The same byte in all lanes.
    ///
    /// # Safety
    /// See [`Group`].
    unsafe fn splat(byte: u8) -> Self;
    /// 64 bytes.
    ///
    /// # Safety
    /// See [`Group`]; they are readable.
    unsafe fn load(from: *const u8) -> Self;
    /// Writes 64 bytes.
    ///
    /// # Safety
    /// See [`Group`]; they are writable.
    unsafe fn store(self, to: *mut u8);
    /// # Safety
    /// See [`Group`].
    unsafe fn add(self, other: Self) -> Self;
    /// # Safety
    /// See [`Group`].
    unsafe fn xor(self, other: Self) -> Self;
    /// A bit for each lane: 1 where it is as large as the other's or larger, both unsigned.
    ///
    /// # Safety
    /// See [`Group`].
    unsafe fn at_least(self, other: Self) -> u64;
}

/// Kernels that can deal bytes out to lanes.
pub trait Expand: Group {
    /// The first bytes of `from`, one after another, in the lanes whose bits are ones; 0 elsewhere.
    ///
    /// # Safety
    /// See [`Group`]; as many bytes as there are ones, and 64 more, are readable.
    unsafe fn expand(bits: u64, from: *const u8) -> Self;
}

/// Kernels that can look bytes up in tables of 128.
pub trait LookUp: Group {
    /// Such a table in registers.
    type Table: Copy;
    /// What the lanes of high ranks are changed by.
    type Mask: Copy;
    /// The first 128 symbols of a table.
    ///
    /// # Safety
    /// See [`Group`].
    unsafe fn table(symbols: &[u8; 256]) -> Self::Table;
    /// # Safety
    /// See [`Group`].
    unsafe fn mask(mask: u8) -> Self::Mask;
    /// The symbols of ranks modulo 128.
    ///
    /// # Safety
    /// See [`Group`].
    unsafe fn look_up(self, table: &Self::Table) -> Self;
    /// The mask in lanes of 128 and more, 0 elsewhere.
    ///
    /// # Safety
    /// See [`Group`].
    unsafe fn high(self, mask: &Self::Mask) -> Self;
}
