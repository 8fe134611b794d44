//! Asks the gRPC health service of a service's endpoints through one channel that follows them.
//!
//! Against `cargo run --release -- serve` and registered gRPC servers:
//! `cargo run --package fingerpost-client --features grpc --example grpc -- 'fingerpost://prod/web?port=grpc'`

use fingerpost_client::{Client, grpc};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let target = std::env::args().nth(1).unwrap_or_else(|| "fingerpost://prod/web?port=grpc".to_owned());
    let server = std::env::var("FINGERPOST_SERVER").unwrap_or_else(|_| "http://127.0.0.1:8053".to_owned());
    let client = Client::connect(&server)?;
    let web = client.watch(&target).subscribe()?;
    web.synced().await?;
    let mut health = HealthClient::new(grpc::channel(&client, &target)?);
    for _ in 0..5 {
        let reply = health.check(HealthCheckRequest::default()).await?.into_inner();
        println!("{:?}", reply.status());
    }
    Ok(())
}
