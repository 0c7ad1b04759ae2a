//! What the machine has. Nothing else in the crate asks it.

use crate::arch::Feature;

/// Whether processor and system have it. Of some, the answer is found once a process.
#[cfg(target_arch = "x86_64")]
pub fn has(feature: Feature) -> bool {
    match feature {
        Feature::Avx2 => is_x86_feature_detected!("avx2"),
        Feature::Bmi1 => is_x86_feature_detected!("bmi1"),
        Feature::Bmi2 => is_x86_feature_detected!("bmi2"),
        Feature::FastDeposits => deposits::are_fast(),
        Feature::Popcnt => is_x86_feature_detected!("popcnt"),
        Feature::F16c => is_x86_feature_detected!("f16c"),
        Feature::AvxVnni => is_x86_feature_detected!("avxvnni"),
        Feature::Avx512f => is_x86_feature_detected!("avx512f"),
        Feature::Avx512bw => is_x86_feature_detected!("avx512bw"),
        Feature::Avx512vl => is_x86_feature_detected!("avx512vl"),
        Feature::Avx512dq => is_x86_feature_detected!("avx512dq"),
        Feature::Avx512vnni => is_x86_feature_detected!("avx512vnni"),
        Feature::Avx512vbmi => is_x86_feature_detected!("avx512vbmi"),
        Feature::Avx512vbmi2 => is_x86_feature_detected!("avx512vbmi2"),
        Feature::Gfni => is_x86_feature_detected!("gfni"),
        Feature::AmxInt8 => amx::exists(),
        Feature::AmxPermission => amx::is_permitted(),
    }
}

/// Whether the processor has it.
#[cfg(target_arch = "aarch64")]
pub fn has(feature: Feature) -> bool {
    match feature {
        Feature::Neon => std::arch::is_aarch64_feature_detected!("neon"),
        Feature::DotProduct => std::arch::is_aarch64_feature_detected!("dotprod"),
        Feature::MatrixProduct => std::arch::is_aarch64_feature_detected!("i8mm"),
    }
}

/// There is nothing to have.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub fn has(feature: Feature) -> bool {
    match feature {}
}

#[cfg(target_arch = "x86_64")]
mod deposits {
    use std::arch::x86_64::*;
    use std::sync::OnceLock;

    /// Whether PDEP takes a few cycles and not a few for each bit: no feature bit says so, only who made the processor when.
    pub fn are_fast() -> bool {
        static FAST: OnceLock<bool> = OnceLock::new();
        *FAST.get_or_init(|| {
            let (vendor, signature) = (__cpuid(0), __cpuid(1).eax);
            fast([vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened(), signature)
        })
    }

    /// As above, of a vendor's name and the signature with the family in it. Of AMD and of Hygon, who build Zen 1, those
    /// before family 19h (Zen 3) have it in microcode.
    pub fn fast(vendor: &[u8], signature: u32) -> bool {
        const ZEN_3: u32 = 0x19;
        let family = match signature >> 8 & 0xf {
            0xf => 0xf + (signature >> 20 & 0xff),
            family => family,
        };
        family >= ZEN_3 || !matches!(vendor, b"AuthenticAMD" | b"HygonGenuine")
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn processors_by_vendor_and_signature() {
            let (amd, hygon, intel) = (b"AuthenticAMD", b"HygonGenuine", b"GenuineIntel");
            for (processor, vendor, signature, expected) in [
                ("Excavator", amd, 0x0066_0f01, false),
                ("Zen 1, Naples", amd, 0x0080_0f12, false),
                ("Zen+, Pinnacle Ridge", amd, 0x0080_0f82, false),
                ("Dhyana", hygon, 0x0090_0f02, false),
                ("Zen 2, Rome", amd, 0x0083_0f10, false),
                ("Zen 2, Matisse", amd, 0x0087_0f10, false),
                ("Zen 3, Milan", amd, 0x00a0_0f11, true),
                ("Zen 3, Vermeer", amd, 0x00a2_0f10, true),
                ("Zen 4, Genoa", amd, 0x00a1_0f11, true),
                ("Zen 5, Turin", amd, 0x00b0_0f21, true),
                ("Haswell", intel, 0x0003_06c3, true),
                ("Skylake-SP", intel, 0x0005_0654, true),
                ("Ice Lake-SP", intel, 0x0006_06a6, true),
            ] {
                assert_eq!(fast(vendor, signature), expected, "{processor}");
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod amx {
    use std::arch::x86_64::*;
    use std::sync::OnceLock;

    /// Whether the processor has AMX-TILE and AMX-INT8 (leaf 7 of CPUID), and the system saves the registers (XCR0).
    pub fn exists() -> bool {
        const LEAF: u32 = 7;
        const TILE_AND_INT8: u32 = 1 << 24 | 1 << 25;
        const XTILECFG_AND_XTILEDATA: u64 = 1 << 17 | 1 << 18;
        #[target_feature(enable = "xsave")]
        fn xcr0() -> u64 {
            // SAFETY: register 0 exists wherever the instruction does.
            unsafe { _xgetbv(0) }
        }
        // The standard library finds XSAVE only where the system uses it, without which XGETBV is no instruction.
        is_x86_feature_detected!("xsave")
            && __cpuid(0).eax >= LEAF
            && __cpuid_count(LEAF, 0).edx & TILE_AND_INT8 == TILE_AND_INT8
            // SAFETY: the processor has the feature, as was just found.
            && unsafe { xcr0() } & XTILECFG_AND_XTILEDATA == XTILECFG_AND_XTILEDATA
    }

    /// Whether the system lets this process use tile registers. The first call asks for that, which needs no privilege and
    /// cannot be taken back.
    pub fn is_permitted() -> bool {
        static PERMITTED: OnceLock<bool> = OnceLock::new();
        *PERMITTED.get_or_init(ask)
    }

    /// Asks Linux: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA), as its documentation of x86 extended features says.
    /// It refuses where a thread has an alternate signal stack that is too small for them.
    #[cfg(target_os = "linux")]
    fn ask() -> bool {
        const ARCH_PRCTL: i64 = 158;
        const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
        const XFEATURE_XTILEDATA: i64 = 18;
        let result: i64;
        // SAFETY: a system call that takes two numbers and touches no memory of the process; it clobbers rcx and r11.
        unsafe {
            std::arch::asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => result,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILEDATA,
                out("rcx") _,
                out("r11") _,
                options(nostack),
            );
        }
        result == 0
    }

    #[cfg(not(target_os = "linux"))]
    fn ask() -> bool {
        false
    }
}
