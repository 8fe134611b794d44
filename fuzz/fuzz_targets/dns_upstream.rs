//! Whatever an upstream sends, the answers made of it are messages within the client's limits.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| fingerpost_dns::forward::fuzz_answer(message));
