#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lumos::data::fuzz::recbole(bytes));
