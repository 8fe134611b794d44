//! A well-formed header around any question, so that the fuzzer gets to the names sooner.
#![no_main]

mod index;

use fingerpost_dns::{Answerer, Transport, Verdict};
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;

thread_local! {
    static ANSWERER: RefCell<Answerer> = RefCell::new(index::answerer());
}

fuzz_target!(|question: (u8, &[u8])| {
    let (choice, labels) = question;
    let mut packet = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    packet.extend_from_slice(labels.get(..200).unwrap_or(labels));
    packet.extend_from_slice(match choice % 4 {
        0 => b"\x01b\x01n\x03svc\x07cluster\x05local\x00",
        1 => b"\x01n\x03svc\x07cluster\x05local\x00",
        2 => b"\x02in\x04addr\x04arpa\x00",
        _ => b"\x0210\x07in-addr\x04arpa\x00",
    });
    packet.extend_from_slice(&[0, [1, 12, 28, 33, 255, 5, 6, 16][usize::from(choice >> 5)], 0, 1]);
    ANSWERER.with_borrow_mut(|answerer| {
        let mut out = Vec::new();
        if answerer.answer(&packet, Transport::Udp, &mut out) == Verdict::Send {
            assert!((12..=512).contains(&out.len()));
        }
    });
});
