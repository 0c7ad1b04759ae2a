//! Weights that a kernel decodes, tile by tile.

use crate::arch::{ByteRows, Coded, Extent, Refused, Scratch, TileCode, Workspace};
use crate::codec::Code;
use crate::codec::decode::Undecoded;
use crate::container::{CompressedWeight, Tile};
use crate::dispatch::Kernel;
use crate::error::{Error, with_room};
use crate::geometry::{Geometry, TileShape};
use std::ops::Deref;

/// A weight with the bytes of `x2` that it was made from: all that works on a weight begins with `bind`.
#[derive(Debug)]
pub struct Bound<'a, W> {
    pub(crate) weight: &'a W,
    pub(crate) x2: &'a [u8],
}

impl<W> Clone for Bound<'_, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Bound<'_, W> {}

impl<W> Deref for Bound<'_, W> {
    type Target = W;
    fn deref(&self) -> &W {
        self.weight
    }
}

/// A parsed weight, and what decodes it.
#[derive(Debug)]
pub(crate) struct Decoder {
    weight: CompressedWeight,
    code: Option<TileCode>,
    kernel: Kernel,
}

impl Decoder {
    pub fn new(weight: CompressedWeight, kernel: Kernel) -> Self {
        let code = weight.code().cloned().map(TileCode::from);
        Self { weight, code, kernel }
    }

    pub fn geometry(&self) -> &Geometry {
        self.weight.geometry()
    }
    pub fn weight(&self) -> &CompressedWeight {
        &self.weight
    }
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }
    /// The code of coded tiles; there are none where there is no code.
    pub fn code(&self) -> Option<&TileCode> {
        self.code.as_ref()
    }

    /// Remembers counts of all tiles, if there are any that are coded: see [`CompressedWeight::remember_counts`].
    pub fn remember_counts(&mut self, counts: Vec<u16>) {
        if self.code.is_some() {
            self.weight.remember_counts(counts);
        }
    }

    /// With bytes that it reads from.
    pub fn tiles<'a>(&'a self, x2: &'a [u8]) -> Tiles<'a> {
        Tiles { decoder: self, x2 }
    }
}

/// The tiles of a weight. They are read from bytes that may have changed since the weight was parsed: each that is asked for is
/// cut out anew, and its lengths are checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tiles<'a> {
    decoder: &'a Decoder,
    x2: &'a [u8],
}

impl<'a> Tiles<'a> {
    /// Fails unless the bytes are as many as those that the weight was parsed from.
    pub fn check_len(&self) -> Result<(), Error> {
        let (expected, found) = (self.decoder.weight.x2_len(), self.x2.len());
        if expected == found { Ok(()) } else { Err(Error::Length { expected, found }) }
    }

    /// Calls `use_it` with tile `t`, cut into its parts.
    pub fn with_tile<R>(
        &self,
        t: usize,
        scratch: &mut Scratch,
        use_it: impl FnOnce(Tile<'_>, &mut Scratch) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let mut room = std::mem::take(&mut scratch.tile);
        let result = self.decoder.weight.tile(self.x2, t, &mut room).and_then(|tile| use_it(tile, scratch));
        scratch.tile = room;
        result
    }

    /// Checks tile `t`, as [`CompressedWeight::verify_tile`], whose counts it gives.
    pub fn verify(&self, t: usize) -> Result<Vec<u16>, Error> {
        self.decoder.weight.verify_tile(self.x2, t)
    }

    /// Has the processor fetch tile `t`, which is decoded soon.
    pub fn prefetch(&self, t: usize) {
        self.decoder.kernel.tile().prefetch(self.decoder.weight.stored_tile(self.x2, t));
    }

    /// Panels and fractals of tile `t`.
    pub fn extent(&self, t: usize) -> Extent {
        let TileShape { panels, fractals, .. } = self.decoder.geometry().tile(t);
        Extent::new(panels, fractals)
    }

    /// Writes the symbols of tile `t` in kernel order, panels `stride` apart.
    pub fn decode(&self, t: usize, out: &mut [u8], stride: usize, scratch: &mut Scratch) -> Result<(), Error> {
        let extent = self.extent(t);
        self.with_tile(t, scratch, |tile, scratch| {
            match tile {
                Tile::Coded(tile) => {
                    let code = self.decoder.code.as_ref().expect("a coded tile has a code");
                    let decoded =
                        self.decoder.kernel.tile().decode(Coded { code, tile: &tile, extent }, out, stride, scratch);
                    decoded.map_err(|why| self.refusal(t, why))?;
                }
                Tile::Raw(raw) => extent.scatter(raw, out, stride),
                Tile::Constant(symbol) => {
                    for panel in 0..extent.panels() {
                        out[panel * stride..][..extent.panel()].fill(symbol);
                    }
                }
            }
            Ok(())
        })
    }

    /// Writes the symbols of tile `t` as rows. Where the tile is not coded, or the kernel has no such way, nothing is done and the
    /// answer is `false`.
    ///
    /// # Safety
    /// 16 rows for each panel of the tile, of 32 bytes for each fractal, can be written.
    pub unsafe fn decode_rows(&self, t: usize, to: ByteRows, scratch: &mut Scratch) -> Result<bool, Error> {
        let extent = self.extent(t);
        self.with_tile(t, scratch, |tile, scratch| {
            let Tile::Coded(tile) = tile else { return Ok(false) };
            let code = self.decoder.code.as_ref().expect("a coded tile has a code");
            let coded = Coded { code, tile: &tile, extent };
            // SAFETY: the caller's contract.
            match unsafe { self.decoder.kernel.tile().decode_rows(coded, to, scratch) } {
                Some(decoded) => decoded.map(|()| true).map_err(|why| self.refusal(t, why)),
                None => Ok(false),
            }
        })
    }

    /// Calls `use_them` with the symbols of tile `t` in kernel order.
    pub fn with_symbols<R>(
        &self,
        t: usize,
        workspace: &mut Workspace,
        use_them: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, Error> {
        if let Some(symbols) = self.decoder.weight.raw_tile(self.x2, t)? {
            return Ok(use_them(symbols));
        }
        let Workspace { symbols, scratch, .. } = workspace;
        let extent = self.extent(t);
        symbols.reset(extent.weights(), "a decoded tile")?;
        self.decode(t, symbols, extent.panel(), scratch)?;
        Ok(use_them(symbols))
    }

    /// Why a kernel refuses tile `t`: where it is damaged, the reference decoder knows.
    pub fn refusal(&self, t: usize, why: Refused) -> Error {
        if let Refused::NoMemory(why) = why {
            return why.into();
        }
        let reason = |code: &Code, tile: &Tile<'_>| {
            let Tile::Coded(tile) = tile else { return Ok(None) };
            let len = self.extent(t).weights();
            let mut symbols = with_room(len, "a decoded tile")?;
            symbols.resize(len, 0);
            match tile.decode(code, &mut symbols) {
                Ok(()) => Ok(None),
                Err(Undecoded::Damaged(reason)) => Ok(Some(reason)),
                Err(Undecoded::NoMemory(bytes)) => Err(Error::Memory { what: "a decoded tile", bytes }),
            }
        };
        let mut room = Vec::new();
        let found =
            self.decoder.weight.tile(self.x2, t, &mut room).and_then(|tile| match self.decoder.weight.code() {
                Some(code) => reason(code, &tile),
                None => Ok(None),
            });
        match found {
            Ok(reason) => Error::Tile { tile: t, reason: reason.unwrap_or("does not decode") },
            Err(error) => error,
        }
    }
}
