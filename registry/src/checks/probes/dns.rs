//! DNS: a query is answered, with NOERROR and at least one record of the type asked for.

use super::{connect, reason};
use crate::checks::verdict::Outcome;
use fingerpost_catalog::{Check, Health};
use hickory_proto::op::{DnsResponse, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;

/// Packets get lost; who does not answer is asked again after this time.
const AGAIN: Duration = Duration::from_millis(700);

pub(super) async fn run(check: &Check, target: SocketAddr) -> Result<Outcome, String> {
    let (question, wanted) = question(check)?;
    let packet = question.to_vec().map_err(|error| format!("the query can't be written: {error}"))?;
    let network = |error: std::io::Error| format!("can't ask {target}: {}", reason(&error));
    let mut answer = ask_udp(target, &question, &packet).await.map_err(network)?;
    if answer.metadata.truncation {
        answer = ask_tcp(target, &question, &packet).await?;
    }
    match answer.metadata.response_code {
        ResponseCode::NoError => {
            let count = answer.answers.iter().filter(|record| record.record_type() == wanted).count();
            match count {
                0 => Err(format!("NOERROR, but no record of type {wanted}")),
                1 => Ok(Outcome::new(Health::Passing, "NOERROR, 1 record")),
                count => Ok(Outcome::new(Health::Passing, format!("NOERROR, {count} records"))),
            }
        }
        other => Err(rcode_name(other)),
    }
}

fn rcode_name(rcode: ResponseCode) -> String {
    match rcode {
        ResponseCode::FormErr => "FORMERR".to_owned(),
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
        ResponseCode::NotImp => "NOTIMP".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        other => format!("RCODE{}", u16::from(other)),
    }
}

fn question(check: &Check) -> Result<(Message, RecordType), String> {
    let name = check.query.as_deref().unwrap_or_default();
    let mut name = Name::from_ascii(name).map_err(|_| format!("`{name}` is not a domain name"))?;
    name.set_fqdn(true);
    let wanted = record_type(check.record_type.as_deref())?;
    let mut message = Message::query();
    message.metadata.id = rand::random();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, wanted));
    Ok((message, wanted))
}

/// The type that a check asks for.
pub(crate) fn record_type(text: Option<&str>) -> Result<RecordType, String> {
    match text.unwrap_or("A").to_ascii_uppercase().parse() {
        Ok(RecordType::ANY | RecordType::AXFR | RecordType::IXFR | RecordType::OPT) | Err(_) => Err(format!(
            "`{}` is not a record type to check with; write for example A, AAAA or SRV",
            text.unwrap_or("A")
        )),
        Ok(wanted) => Ok(wanted),
    }
}

/// Reads an answer, where it is one to this question.
fn decode(question: &Message, bytes: &[u8]) -> Option<Message> {
    let message = DnsResponse::from_buffer(bytes.to_vec()).ok()?.into_message();
    (message.metadata.id == question.metadata.id && message.queries == question.queries).then_some(message)
}

async fn ask_udp(target: SocketAddr, question: &Message, packet: &[u8]) -> std::io::Result<Message> {
    let any: SocketAddr =
        if target.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).await?;
    // Connected, it takes answers from nobody else, and hears of ports where nobody listens.
    socket.connect(target).await?;
    let mut buffer = vec![0; 4096];
    loop {
        socket.send(packet).await?;
        let answer = async {
            loop {
                let size = socket.recv(&mut buffer).await?;
                if let Some(message) = decode(question, buffer.get(..size).unwrap_or_default()) {
                    return Ok(message);
                }
            }
        };
        // Until the check's own timeout.
        if let Ok(answer) = tokio::time::timeout(AGAIN, answer).await {
            return answer;
        }
    }
}

async fn ask_tcp(target: SocketAddr, question: &Message, packet: &[u8]) -> Result<Message, String> {
    let broken = |error: std::io::Error| format!("DNS over TCP: {}", reason(&error));
    let length = u16::try_from(packet.len()).map_err(|_| "the query is too long".to_owned())?;
    let mut stream = connect(target).await?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(packet);
    stream.write_all(&framed).await.map_err(broken)?;
    let size = stream.read_u16().await.map_err(broken)?;
    let mut buffer = vec![0; usize::from(size)];
    stream.read_exact(&mut buffer).await.map_err(broken)?;
    decode(question, &buffer).ok_or_else(|| "DNS over TCP: the answer can't be read".to_owned())
}
