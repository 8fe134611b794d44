//! Is in the registry for as long as it runs, and leaves in good order on SIGTERM.
//!
//! Against `cargo run --release -- serve`: `cargo run --package fingerpost-client --example register -- web-1 127.0.0.1:8080`

use fingerpost_client::catalog::document::InstanceDocument;
use fingerpost_client::catalog::{Port, Protocol};
use fingerpost_client::{Client, HealthReport};
use std::net::SocketAddr;
use std::time::Duration;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let id = arguments.next().unwrap_or_else(|| "web-1".to_owned());
    let address: SocketAddr = arguments.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned()).parse()?;
    let server = std::env::var("FINGERPOST_SERVER").unwrap_or_else(|_| "http://127.0.0.1:8053".to_owned());
    let instance = InstanceDocument {
        namespace: Some("prod".to_owned()),
        service: Some("web".to_owned()),
        id: Some(id),
        addresses: vec![address.ip()],
        ports: vec![Port {
            name: "http".to_owned(),
            port: address.port(),
            protocol: Protocol::Tcp,
            app_protocol: Some("http".to_owned()),
        }],
        ..InstanceDocument::default()
    };
    let client = Client::connect(&server)?;
    let registration = client
        .register(instance)
        .health(Duration::from_secs(1), || async { HealthReport::passing() })
        .grace(Duration::from_secs(2))
        .on_sigterm()
        .start()?;
    registration.registered().await?;
    println!("registered; `kill {}` ends it in good order", std::process::id());
    // A server would serve here, and stop accepting only after this:
    registration.ended().await;
    println!("nobody is sent here any more");
    Ok(())
}
