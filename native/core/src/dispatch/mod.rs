//! Which kernel runs: the best that the processor has, or the one that is asked for.

mod detect;

#[cfg(target_arch = "aarch64")]
use crate::arch::aarch64::neon::Neon;
use crate::arch::portable::Portable;
#[cfg(target_arch = "x86_64")]
use crate::arch::x86_64::{
    amx::Amx,
    avx2::{Avx2, Dots},
    avx512::{Avx512, Avx512Vnni},
};
use crate::arch::{Feature, TileKernel};
use crate::codec::WeightType;
use crate::dequantize::Channels;
use crate::error::Error;
use crate::transpose::Matrix;
use std::mem::MaybeUninit;
use std::sync::OnceLock;

/// A kernel, and what it takes to run it.
struct Candidate {
    short: &'static str,
    needs: &'static [&'static [Feature]],
    /// Gives the kernel. Safe to call where all that it needs is there.
    tile: unsafe fn() -> &'static dyn TileKernel,
}

/// Gives a kernel whose constructor is as unsafe as [`Candidate::tile`].
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! assumed {
    ($kernel:ty, $assume:ident) => {{
        unsafe fn tile() -> &'static dyn TileKernel {
            // SAFETY: the caller's contract; the constructor does nothing by itself.
            static KERNEL: $kernel = unsafe { <$kernel>::$assume() };
            &KERNEL
        }
        tile
    }};
}

/// All kernels, best first.
const CANDIDATES: &[Candidate] = &[
    #[cfg(target_arch = "x86_64")]
    Candidate { short: "amx", needs: &[Avx512::NEEDS, Amx::NEEDS], tile: assumed!(Amx, assume) },
    #[cfg(target_arch = "x86_64")]
    Candidate { short: "avx512", needs: &[Avx512::NEEDS], tile: assumed!(Avx512, assume) },
    #[cfg(target_arch = "x86_64")]
    Candidate { short: "avx512-vnni", needs: &[Avx512Vnni::NEEDS], tile: assumed!(Avx512Vnni, assume) },
    #[cfg(target_arch = "x86_64")]
    Candidate {
        short: "avx-vnni",
        needs: &[Avx2::<true>::NEEDS, Avx2::FAST, Dots::NEEDS],
        tile: assumed!(Avx2<true, Dots<false>>, assume),
    },
    #[cfg(target_arch = "x86_64")]
    Candidate { short: "avx2", needs: &[Avx2::<true>::NEEDS, Avx2::FAST], tile: assumed!(Avx2<true>, assume) },
    #[cfg(target_arch = "x86_64")]
    Candidate { short: "avx2-nopdep", needs: &[Avx2::<false>::NEEDS], tile: assumed!(Avx2<false>, assume) },
    #[cfg(target_arch = "aarch64")]
    Candidate { short: "neon-i8mm", needs: &[Neon::NEEDS_WITH_MATRIX], tile: assumed!(Neon, assume_with_matrix) },
    #[cfg(target_arch = "aarch64")]
    Candidate { short: "neon-dot", needs: &[Neon::NEEDS_WITH_DOT], tile: assumed!(Neon, assume_with_dot) },
    #[cfg(target_arch = "aarch64")]
    Candidate { short: "neon", needs: &[Neon::NEEDS], tile: assumed!(Neon, assume) },
    Candidate { short: "scalar", needs: &[], tile: || &Portable::<false> },
];

/// Those that run on a machine which has what `has` says, best first.
fn runnable(has: impl Fn(Feature) -> bool) -> impl Iterator<Item = &'static Candidate> {
    CANDIDATES.iter().filter(move |candidate| candidate.needs.iter().copied().flatten().all(|need| has(*need)))
}

/// A kernel that this processor can run.
#[derive(Clone, Copy)]
pub struct Kernel {
    short: &'static str,
    tile: &'static dyn TileKernel,
    /// By which uint8 activations are multiplied with int8 weights.
    products: &'static dyn TileKernel,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.tile.name())
    }
}

impl Kernel {
    /// All that run here, best first.
    pub fn available() -> Vec<Self> {
        let kernel = |candidate: &Candidate| {
            // SAFETY: this machine has all that it needs.
            let tile = unsafe { (candidate.tile)() };
            Self { short: candidate.short, tile, products: tile }
        };
        runnable(detect::has).map(kernel).collect()
    }

    /// The best one.
    pub fn best() -> Self {
        Self::available()[0]
    }

    /// The one called `name`: scalar, avx2-nopdep, avx2, avx-vnni, avx512-vnni, avx512 or amx; on ARM scalar, neon, neon-dot or neon-i8mm.
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
        self.tile.rows().transpose_words(from, to);
    }

    /// Makes floats of weights: `(float(weight) - zero_point) * scale`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn dequantize(
        &self,
        weights: &[u8],
        weight_type: WeightType,
        channels: Channels<'_>,
        at: usize,
        out: &mut [MaybeUninit<f32>],
    ) {
        self.tile.rows().dequantize(weights, weight_type, channels, at, out);
    }

    /// As `MCD_KERNEL` takes it.
    pub fn short_name(&self) -> &'static str {
        self.short
    }

    /// Whether it multiplies by a compressed weight sooner than memory gives the plain one.
    pub fn outpaces_memory(&self) -> bool {
        self.tile.outpaces_memory()
    }

    /// The same with products of uint8 activations and int8 weights that saturate in pairs, as `vpmaddubsw` has them:
    /// Σ sat16(x₀w₀ + x₁w₁) over the neighbours along k, then as ever. All other products stay exact. `None` where a kernel
    /// has none, which no processor runs that [has no other instruction](saturates_pairs).
    pub fn saturating(self) -> Option<Self> {
        Some(Self { products: self.tile.saturating()?, ..self })
    }

    /// Whether it is such a one.
    pub fn saturates(&self) -> bool {
        self.products.saturates()
    }

    /// The kernel itself, with exact products.
    pub(crate) fn tile(&self) -> &'static dyn TileKernel {
        self.tile
    }

    /// The kernel that multiplies uint8 activations with int8 weights.
    pub(crate) fn products(&self) -> &'static dyn TileKernel {
        self.products
    }
}

/// Whether `vpmaddubsw` is what this processor has for dot products of bytes: x86 with AVX2 and without VNNI.
pub fn saturates_pairs() -> bool {
    #[cfg(target_arch = "x86_64")]
    return pairs_saturate(detect::has);
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// As [`saturates_pairs`], of what `has` says. VNNI of AVX-512 counts where onnxruntime uses it.
#[cfg(target_arch = "x86_64")]
fn pairs_saturate(has: impl Fn(Feature) -> bool) -> bool {
    use Feature::{Avx2, Avx512bw, Avx512dq, Avx512vl, Avx512vnni, AvxVnni};
    has(Avx2) && !has(AvxVnni) && ![Avx512bw, Avx512dq, Avx512vl, Avx512vnni].into_iter().all(has)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(has: &[Feature]) -> Vec<&'static str> {
        runnable(|feature| has.contains(&feature)).map(|candidate| candidate.short).collect()
    }

    /// Features of processors, each with those of the ones that it came after; what they run, best first.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_best_kernel_that_a_processor_has_all_features_of() {
        use Feature::*;
        let zen_2 = [Avx2, Bmi1, Bmi2, Popcnt, F16c];
        let haswell = [&zen_2[..], &[FastDeposits]].concat();
        let alder_lake = [&haswell[..], &[Gfni, AvxVnni]].concat();
        let skylake = [&haswell[..], &[Avx512f, Avx512bw, Avx512vl, Avx512dq]].concat();
        let cascade_lake = [&skylake[..], &[Avx512vnni]].concat();
        // Zen 4 has these as well, and neither has tile registers.
        let ice_lake = [&cascade_lake[..], &[Avx512vbmi, Avx512vbmi2, Gfni]].concat();
        let zen_5 = [&ice_lake[..], &[AvxVnni]].concat();
        let sapphire_rapids = [&zen_5[..], &[AmxInt8, AmxPermission]].concat();
        let without = |of: &[Feature], feature| of.iter().copied().filter(|f| *f != feature).collect::<Vec<_>>();
        let table: &[(&str, Vec<Feature>, &[&str])] = &[
            ("none", Vec::new(), &[]),
            ("Sandy Bridge", vec![Popcnt], &[]),
            ("Zen 1 and 2", zen_2.to_vec(), &["avx2-nopdep"]),
            ("Haswell and Zen 3", haswell.clone(), &["avx2", "avx2-nopdep"]),
            ("a hypervisor that hides BMI2", without(&haswell, Bmi2), &[]),
            ("Alder Lake", alder_lake, &["avx-vnni", "avx2", "avx2-nopdep"]),
            ("Skylake", skylake, &["avx2", "avx2-nopdep"]),
            ("Cascade Lake", cascade_lake, &["avx512-vnni", "avx2", "avx2-nopdep"]),
            ("Ice Lake", ice_lake.clone(), &["avx512", "avx512-vnni", "avx2", "avx2-nopdep"]),
            ("Zen 5", zen_5.clone(), &["avx512", "avx512-vnni", "avx-vnni", "avx2", "avx2-nopdep"]),
            (
                "Sapphire Rapids",
                sapphire_rapids.clone(),
                &["amx", "avx512", "avx512-vnni", "avx-vnni", "avx2", "avx2-nopdep"],
            ),
            (
                "no permission",
                without(&sapphire_rapids, AmxPermission),
                &["avx512", "avx512-vnni", "avx-vnni", "avx2", "avx2-nopdep"],
            ),
            (
                "a system that saves no tiles",
                without(&sapphire_rapids, AmxInt8),
                &["avx512", "avx512-vnni", "avx-vnni", "avx2", "avx2-nopdep"],
            ),
            (
                "a hypervisor that hides GFNI",
                without(&sapphire_rapids, Gfni),
                &["avx512-vnni", "avx-vnni", "avx2", "avx2-nopdep"],
            ),
            ("tiles, but no AVX-512", [&haswell[..], &[AmxInt8, AmxPermission]].concat(), &["avx2", "avx2-nopdep"]),
        ];
        for (processor, features, expected) in table {
            assert_eq!(names(features), [*expected, &["scalar"]].concat(), "{processor}");
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn processors_without_an_exact_instruction_saturate() {
        use Feature::*;
        let table: [(&str, &[Feature], bool); 6] = [
            ("Sandy Bridge", &[Popcnt], false),
            ("Haswell and Zen 3", &[Avx2, FastDeposits], true),
            ("Skylake-SP", &[Avx2, Avx512f, Avx512bw, Avx512vl, Avx512dq], true),
            ("Cascade Lake", &[Avx2, Avx512f, Avx512bw, Avx512vl, Avx512dq, Avx512vnni], false),
            ("a hypervisor that hides AVX512BW", &[Avx2, Avx512f, Avx512vl, Avx512dq, Avx512vnni], true),
            ("Alder Lake", &[Avx2, FastDeposits, AvxVnni], false),
        ];
        for (processor, features, expected) in table {
            assert_eq!(pairs_saturate(|feature| features.contains(&feature)), expected, "{processor}");
        }
    }

    #[cfg(target_arch = "aarch64")]
    #[test]
    fn the_best_kernel_that_a_processor_has_all_features_of() {
        use Feature::*;
        let table: &[(&[Feature], &[&str])] = &[
            (&[], &["scalar"]),
            (&[DotProduct], &["scalar"]),
            (&[Neon], &["neon", "scalar"]),
            (&[Neon, DotProduct], &["neon-dot", "neon", "scalar"]),
            (&[Neon, MatrixProduct], &["neon", "scalar"]),
            (&[Neon, DotProduct, MatrixProduct], &["neon-i8mm", "neon-dot", "neon", "scalar"]),
        ];
        for (features, expected) in table {
            assert_eq!(names(features), *expected, "{features:?}");
        }
    }

    #[test]
    fn no_kernel_runs_without_any_of_its_features() {
        for candidate in CANDIDATES {
            let needs: Vec<Feature> = candidate.needs.iter().copied().flatten().copied().collect();
            assert!(names(&needs).contains(&candidate.short));
            for i in 0..needs.len() {
                let fewer = [&needs[..i], &needs[i + 1..]].concat();
                assert!(!names(&fewer).contains(&candidate.short), "{} without {:?}", candidate.short, needs[i]);
            }
        }
    }

    #[test]
    fn what_runs_here_is_what_is_detected_here() {
        let available = Kernel::available();
        let expected: Vec<_> = runnable(detect::has).map(|candidate| candidate.short).collect();
        assert_eq!(available.iter().map(Kernel::short_name).collect::<Vec<_>>(), expected);
        assert_eq!(available.last().map(Kernel::short_name), Some("scalar"));
        for kernel in available {
            assert_eq!(Kernel::by_name(kernel.short_name()).unwrap().tile().name(), kernel.tile().name());
        }
        assert!(Kernel::by_name("no such kernel").is_err());
    }
}
