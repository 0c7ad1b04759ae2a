//! Which kernel runs: the best that the processor has, or the one that is asked for.

use crate::arch::TileKernel;
#[cfg(target_arch = "aarch64")]
use crate::arch::aarch64::neon::Neon;
use crate::arch::portable::Portable;
#[cfg(target_arch = "x86_64")]
use crate::arch::x86_64::{amx::Amx, avx2::Avx2, avx512::Avx512};
use crate::error::Error;
use crate::transpose::Matrix;
use std::mem::MaybeUninit;
use std::sync::OnceLock;

/// A kernel that this processor can run.
#[derive(Clone, Copy)]
pub struct Kernel {
    short: &'static str,
    tile: &'static dyn TileKernel,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.tile.name())
    }
}

impl Kernel {
    /// All that run here, best first.
    pub fn available() -> Vec<Self> {
        let mut kernels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(tile) = Amx::new() {
                kernels.push(Self { short: "amx", tile });
            }
            if let Some(tile) = Avx512::new() {
                kernels.push(Self { short: "avx512", tile });
            }
            if let Some(tile) = Avx2::new() {
                kernels.push(Self { short: "avx2", tile });
            }
        }
        #[cfg(target_arch = "aarch64")]
        kernels.extend(Neon::all().map(|tile| Self { short: tile.short_name(), tile }));
        kernels.push(Self { short: "scalar", tile: &Portable });
        kernels
    }

    /// The best one.
    pub fn best() -> Self {
        Self::available()[0]
    }

    /// The one called `name`: scalar, avx2, avx512 or amx; on ARM scalar, neon or neon-dot.
    pub fn by_name(name: &str) -> Result<Self, Error> {
        let available = Self::available();
        available.iter().copied().find(|k| k.short == name).ok_or_else(|| {
            let names = available.iter().map(Self::short_name).collect::<Vec<_>>().join(", ");
            Error::Kernel(format!("{name:?} is not available here (available: {names})"))
        })
    }

    /// What the environment variable `MCD_KERNEL` names, or the best one.
    pub fn from_env() -> Result<Self, Error> {
        match std::env::var("MCD_KERNEL") {
            Ok(name) if !name.is_empty() => Self::by_name(&name),
            _ => Ok(Self::best()),
        }
    }

    /// The one that [`Self::from_env`] gave this process first, for work that belongs to no weight; the best one where
    /// `MCD_KERNEL` names none that runs here, for that is an error of whoever prepares a weight.
    pub fn of_process() -> Self {
        static KERNEL: OnceLock<Kernel> = OnceLock::new();
        *KERNEL.get_or_init(|| Self::from_env().unwrap_or_else(|_| Self::best()))
    }

    /// Writes the transpose of `from`, as [`transpose`](crate::transpose()) does it.
    ///
    /// # Panics
    /// As there.
    pub fn transpose_words(&self, from: Matrix<'_, u32>, to: &mut [MaybeUninit<u32>]) {
        self.tile.transpose_words(from, to);
    }

    /// As `MCD_KERNEL` takes it.
    pub fn short_name(&self) -> &'static str {
        self.short
    }

    /// The kernel itself.
    pub(crate) fn tile(&self) -> &'static dyn TileKernel {
        self.tile
    }
}
