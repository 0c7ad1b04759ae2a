//! See [`mcd_fuzz::operator`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcd_fuzz::operator::check(data));
