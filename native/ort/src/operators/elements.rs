//! The elements of a weight that is looked up or made floats of: compressed, or decoded once.

use std::cell::Cell;
use std::hash::Hash;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::sync::Arc;

use mcd_core::container::Decoded;
use mcd_core::{
    Bound, Channels, Kernel, Layout, Parallel, PrepareOptions, Residency, Room, RowPart, Serial, VerifiedWeight,
};

use crate::decoded_folder::Folder;
use crate::operators::weight::{Prepared, first_bytes};
use crate::sharing::Shared;

/// Bytes of a weight up to which it may be decoded with the residency `auto`. In a model with a larger one the multiplications take
/// so long that it does not matter how rows are looked up; the threads of a session make floats of a larger one sooner than
/// onnxruntime's one thread.
const SMALL: u64 = 4 << 20;

/// Bytes from which on the threads of a session share the decoding of a tensor. onnxruntime makes floats of a smaller one sooner than
/// any kernel decodes it on one thread, wherever its bytes come from.
const SHARED: u64 = 256 << 10;

/// Decoded weights that sessions have.
static DECODED: Shared<Vec<i64>, Bytes> = Shared::new();

/// All bytes of a weight, row by row.
enum Bytes {
    Own(Vec<u8>),
    Elsewhere(Box<dyn Room>),
}

impl Bytes {
    /// The same bytes where the folder has them, if there is one.
    fn in_folder(self, folder: Option<&'static Folder>, key: impl Hash) -> Self {
        match folder.and_then(|folder| folder.room(key, self.len())) {
            Some(mut room) => {
                room.bytes_mut().copy_from_slice(&self);
                room.settle();
                Self::Elsewhere(room)
            }
            None => self,
        }
    }
}

impl Default for Bytes {
    fn default() -> Self {
        Self::Own(Vec::new())
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Elsewhere(room) => room.bytes(),
        }
    }
}

/// A weight that was verified.
pub struct Elements {
    weight: VerifiedWeight,
    /// All of it, row by row, where it is decoded once.
    decoded: Option<Arc<Bytes>>,
}

/// A table, of which rows are looked up.
pub struct Table(Elements);

/// A tensor, all of which is made floats of.
pub struct Tensor(Elements);

/// The elements with the bytes that they were made from.
pub struct BoundElements<'a> {
    weight: Bound<'a, VerifiedWeight>,
    decoded: Option<&'a [u8]>,
}

impl BoundElements<'_> {
    /// Length of a row.
    pub fn columns(&self) -> usize {
        self.weight.k()
    }

    /// What decodes it.
    pub fn kernel(&self) -> Kernel {
        self.weight.kernel()
    }

    /// Tells `sink` all parts of all `rows`, as the core's `gather` does.
    pub fn gather(
        &self,
        rows: &[usize],
        pool: &dyn Parallel,
        sink: &(dyn Fn(RowPart<'_>) + Sync),
    ) -> Result<(), mcd_core::Error> {
        let Some(decoded) = self.decoded else { return self.weight.gather(rows, pool, sink) };
        let columns = self.columns();
        for (position, &row) in rows.iter().enumerate() {
            sink(RowPart { position, row, column: 0, weights: &decoded[row * columns..][..columns] });
        }
        Ok(())
    }

    /// Writes all of them as floats, row by row, as the core's `dequantize` does.
    pub fn dequantize(
        &self,
        channels: Channels<'_>,
        out: &mut [MaybeUninit<f32>],
        pool: &dyn Parallel,
    ) -> Result<(), mcd_core::Error> {
        match self.decoded {
            Some(decoded) => self.weight.dequantize_decoded(decoded, channels, out, pool),
            None => self.weight.dequantize(Layout::Nk, channels, out, pool),
        }
    }
}

impl Elements {
    fn new(
        x2: &[u8],
        index: &[u8],
        info: &[i64],
        options: PrepareOptions,
        folder: Option<&'static Folder>,
    ) -> Result<Self, mcd_core::Error> {
        let weight = VerifiedWeight::prepare(x2, index, info, options)?;
        let decoded = match options.residency {
            Residency::Compressed => None,
            Residency::Decoded => {
                let made = Cell::new(Bytes::Own(weight.bind(x2)?.decompressed(&Serial)?));
                let is_same = |other: &Bytes| {
                    let own = made.take();
                    let same = **other == *own;
                    made.set(own);
                    Ok::<_, mcd_core::Error>(same)
                };
                let make = || Ok(made.take().in_folder(folder, (first_bytes(x2), info)));
                Some(DECODED.get_or_make(info.to_vec(), is_same, make)?)
            }
        };
        Ok(Self { weight, decoded })
    }
}

/// What operators take of it, of a type for each: when decoding pays differs.
macro_rules! prepared {
    ($name:ty $(, $choice:item)?) => {
        impl Prepared for $name {
            type Bound<'a> = BoundElements<'a>;

            fn bind<'a>(&'a self, x2: &'a [u8]) -> Result<BoundElements<'a>, mcd_core::Error> {
                let Elements { weight, decoded } = &self.0;
                Ok(BoundElements { weight: weight.bind(x2)?, decoded: decoded.as_deref().map(Deref::deref) })
            }

            fn prepare(
                x2: &[u8],
                index: &[u8],
                info: &[i64],
                options: PrepareOptions,
            ) -> Result<Self, mcd_core::Error> {
                Elements::new(x2, index, info, options, None).map(Self)
            }

            fn decode(
                x2: &[u8],
                index: &[u8],
                info: &[i64],
                options: PrepareOptions,
                folder: Option<&'static Folder>,
            ) -> Result<Arc<Self>, mcd_core::Error> {
                Elements::new(x2, index, info, options, folder).map(Self).map(Arc::new)
            }

            fn has_choice(bytes: u64) -> bool {
                bytes <= SMALL
            }

            $($choice)?

            const DECODED: Option<Decoded> = Some(Decoded::Plain);
        }
    };
}

prepared!(Table);
prepared!(
    Tensor,
    fn outpaces_memory(kernel: Kernel, bytes: u64) -> bool {
        bytes >= SHARED && kernel.outpaces_memory()
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_tensors_are_decoded_once_whatever_the_kernel() {
        for kernel in Kernel::available() {
            assert!(!Tensor::outpaces_memory(kernel, SHARED - 1));
            assert_eq!(Tensor::outpaces_memory(kernel, SHARED), kernel.outpaces_memory());
        }
        assert!(Tensor::has_choice(SMALL) && !Tensor::has_choice(SMALL + 1));
    }
}
