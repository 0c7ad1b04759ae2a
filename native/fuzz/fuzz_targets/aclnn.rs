//! See [`mcd_fuzz::aclnn`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcd_fuzz::aclnn::check(data));
