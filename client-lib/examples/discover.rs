//! Follows a service and tells every difference.
//!
//! Against `cargo run --release -- serve`: `cargo run --package fingerpost-client --example discover -- prod/web`

use fingerpost_client::{Change, Client};
use futures_util::StreamExt;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let target = std::env::args().nth(1).unwrap_or_else(|| "prod/web".to_owned());
    let server = std::env::var("FINGERPOST_SERVER").unwrap_or_else(|_| "http://127.0.0.1:8053".to_owned());
    let client = Client::connect(&server)?;
    let subscription = client.watch(&target).subscribe()?;
    let mut changes = subscription.changes();
    println!("following {target} at {server}; Ctrl-C ends");
    while let Some(change) = changes.next().await {
        match change {
            Change::Added(endpoint) => println!("+ {} {:?}", endpoint.key(), endpoint.socket_addr(None)),
            Change::Updated { after, .. } => println!("~ {} {}", after.key(), after.health()),
            Change::Removed(endpoint) => println!("- {}", endpoint.key()),
        }
    }
    Ok(())
}
