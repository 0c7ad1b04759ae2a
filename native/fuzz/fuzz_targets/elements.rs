//! See [`mcd_fuzz::elements`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcd_fuzz::elements::check(data));
