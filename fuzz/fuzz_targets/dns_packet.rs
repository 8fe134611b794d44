//! Any bytes: the answer is none, or well-formed, of the allowed size, and to this question.
#![no_main]

mod index;

use fingerpost_dns::{Answerer, Transport, Verdict};
use hickory_proto::op::Message;
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;

thread_local! {
    static ANSWERER: RefCell<Answerer> = RefCell::new(index::answerer());
}

fuzz_target!(|packet: &[u8]| {
    ANSWERER.with_borrow_mut(|answerer| {
        let mut out = Vec::new();
        for (transport, limit) in [(Transport::Udp, 1232), (Transport::Tcp, 65_535)] {
            if answerer.answer(packet, transport, &mut out) == Verdict::Drop {
                continue;
            }
            assert!((12..=limit).contains(&out.len()));
            assert_eq!(&out[..2], &packet[..2]);
            assert_eq!(out[2] & 0xf9, packet[2] & 0x79 | 0x80);
            // hickory refuses some names that the DNS allows; where it reads the query, it must read the answer.
            if Message::from_vec(packet).is_ok() {
                Message::from_vec(&out).expect("a well-formed answer");
            }
        }
    });
});
