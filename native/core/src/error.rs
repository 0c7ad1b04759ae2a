//! One reason per error; the caller adds the name of the node or tensor.

use thiserror::Error;

/// Why a weight cannot be packed, read or multiplied.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A dimension is zero or too large for the container.
    #[error("unsupported weight shape ({n}, {k}): {reason}")]
    Shape {
        /// Rows of the weight seen as (n, k), the output columns.
        n: usize,
        /// Length of a dot product.
        k: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The tiling asked for or declared is out of range.
    #[error("unsupported tiling [{k}, {n}]: {reason}")]
    Tiling {
        /// Fractals of 32 along k.
        k: i64,
        /// Fractals of 16 along n.
        n: i64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// `compress_info` does not fit the stream.
    #[error("compress_info {0}")]
    Info(String),
    /// `compress_index` does not fit the stream.
    #[error("compress_index {0}")]
    Index(String),
    /// The stream does not begin with this format's magic bytes.
    #[error("x2 is not an mcd stream: it begins with {0:02x?} instead of \"MCDW\"")]
    Magic([u8; 4]),
    /// The stream was written by another version of the format.
    #[error("x2 has format version {found}; this build reads versions {oldest} and {newest}")]
    Version {
        /// As stored.
        found: u8,
        /// The older of the two that can be read.
        oldest: u8,
        /// The newer.
        newest: u8,
    },
    /// A header field has a value that no encoder writes.
    #[error("x2 header: {0}")]
    Header(String),
    /// Fewer bytes than the header and index call for, or more.
    #[error("x2 holds {found} bytes where {expected} are declared")]
    Length {
        /// Bytes called for.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// Stored and computed checksum differ.
    #[error("{part} is damaged: checksum {found:08x}, expected {expected:08x}")]
    Checksum {
        /// Header, index or the tile, by number.
        part: String,
        /// As stored.
        expected: u32,
        /// As computed.
        found: u32,
    },
    /// A tile whose checksum is right holds something no encoder writes.
    #[error("tile {tile}: {reason}")]
    Tile {
        /// Number of the tile in `compress_index`.
        tile: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An argument of a multiplication has the wrong length or range.
    #[error("{what} has {found} elements where {expected} are expected")]
    Argument {
        /// Which argument.
        what: &'static str,
        /// Elements needed.
        expected: usize,
        /// Elements given.
        found: usize,
    },
    /// A destination cannot hold what the epilogue makes.
    #[error("an output of {destination} cannot hold {results}")]
    Output {
        /// Type of the destination.
        destination: &'static str,
        /// What the epilogue makes.
        results: &'static str,
    },
    /// A kernel cannot go over an image in the way that is asked for.
    #[error("{0}")]
    Convolution(String),
    /// A length of the call is no multiple of what it is cut into.
    #[error("{whole} {what} cannot be cut evenly into pieces of {part}")]
    Divisibility {
        /// What is cut.
        what: &'static str,
        /// How many there are.
        whole: usize,
        /// How many make a piece.
        part: usize,
    },
    /// What the shape calls for cannot be allocated.
    #[error("out of memory: {bytes} bytes for {what}")]
    Memory {
        /// What for.
        what: &'static str,
        /// How many.
        bytes: usize,
    },
    /// The kernel asked for does not exist or cannot run on this processor: its name, and those that can.
    #[error("kernel {0}")]
    Kernel(String),
}

/// An empty vector with room for `len` elements, whose number a file declares: where it cannot be had, that is an error
/// of the file, not the end of the process.
pub(crate) fn with_room<T>(len: usize, what: &'static str) -> Result<Vec<T>, Error> {
    let mut vec = Vec::new();
    let bytes = len.saturating_mul(size_of::<T>());
    vec.try_reserve_exact(len).map_err(|_| Error::Memory { what, bytes })?;
    Ok(vec)
}

/// Makes a vector that is kept from call to call `len` elements long, as [`with_room`].
pub(crate) fn resize<T: Copy + Default>(vec: &mut Vec<T>, len: usize, what: &'static str) -> Result<(), Error> {
    if let Some(more) = len.checked_sub(vec.len()) {
        let bytes = len.saturating_mul(size_of::<T>());
        vec.try_reserve_exact(more).map_err(|_| Error::Memory { what, bytes })?;
    }
    vec.resize(len, T::default());
    Ok(())
}

/// Makes a vector that is kept from call to call hold what an iterator gives, as [`with_room`].
pub(crate) fn refill<T>(
    vec: &mut Vec<T>,
    items: impl ExactSizeIterator<Item = T>,
    what: &'static str,
) -> Result<(), Error> {
    vec.clear();
    let bytes = items.len().saturating_mul(size_of::<T>());
    vec.try_reserve_exact(items.len()).map_err(|_| Error::Memory { what, bytes })?;
    vec.extend(items);
    Ok(())
}

/// A vector of what an iterator gives, whose number a file declares, as [`with_room`].
pub(crate) fn collected<T>(
    items: impl ExactSizeIterator<Item = Result<T, Error>>,
    what: &'static str,
) -> Result<Vec<T>, Error> {
    let mut vec = with_room(items.len(), what)?;
    for item in items {
        vec.push(item?);
    }
    Ok(vec)
}
