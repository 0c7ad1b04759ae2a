//! What kernels need of the machine. Whether it is there, `dispatch` finds out.

/// Of the processor, or of the system that shares it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg(target_arch = "x86_64")]
pub enum Feature {
    Avx2,
    Bmi1,
    Bmi2,
    /// That PDEP is an instruction of its own, and no microcode as before Zen 3.
    FastDeposits,
    Popcnt,
    F16c,
    /// VNNI in registers of AVX2.
    AvxVnni,
    Avx512f,
    Avx512bw,
    Avx512vl,
    Avx512dq,
    Avx512vnni,
    Avx512vbmi,
    Avx512vbmi2,
    Gfni,
    /// AMX-TILE and AMX-INT8, and that the system saves their registers.
    AmxInt8,
    /// That the system lets this process use them.
    AmxPermission,
}

/// Of the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg(target_arch = "aarch64")]
pub enum Feature {
    Neon,
    DotProduct,
    /// I8MM.
    MatrixProduct,
}

/// On any other, there is the scalar kernel alone, which needs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub enum Feature {}
