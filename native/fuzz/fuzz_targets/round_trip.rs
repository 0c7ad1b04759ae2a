//! See [`mcd_fuzz::round_trip`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcd_fuzz::round_trip::check(data));
