#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kms_plugin::fuzz::run("etcd_key", input));
