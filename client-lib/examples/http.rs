//! Asks a service for its front page a few times, each time the endpoint that the balancer picks.
//!
//! Against `cargo run --release -- serve` and a few registered web servers:
//! `cargo run --package fingerpost-client --features connect,tower --example http -- prod/web`

use fingerpost_client::balance::{Balancer, Policy};
use fingerpost_client::connect::Resolver;
use fingerpost_client::{Client, Target};
use std::time::Duration;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let target: Target = std::env::args().nth(1).unwrap_or_else(|| "prod/web".to_owned()).parse()?;
    let server = std::env::var("FINGERPOST_SERVER").unwrap_or_else(|_| "http://127.0.0.1:8053".to_owned());
    let client = Client::connect(&server)?;

    // A choice for each request.
    let web = client.watch(&target.to_string()).subscribe()?;
    tokio::time::timeout(Duration::from_secs(5), web.synced()).await??;
    let balancer = web.balance(Balancer::builder().policy(Policy::PowerOfTwo).build());
    let http = reqwest::Client::new();
    for _ in 0..5 {
        let Some(pick) = balancer.pick() else { return Err(format!("{target} has no endpoint that works").into()) };
        let Some(address) = pick.socket_addr(target.port()) else { return Err("it has no such port".into()) };
        match http.get(format!("http://{address}/")).send().await {
            Ok(reply) => {
                println!("{} answers {}", pick.key(), reply.status());
                pick.success();
            }
            Err(error) => {
                println!("{} fails: {error}", pick.key());
                pick.failure();
            }
        }
    }

    // A choice for each connection, by name.
    let http = reqwest::Client::builder().dns_resolver(Resolver::new(&client)).build()?;
    let url = format!("http://{}.{}.fingerpost/", target.service(), target.namespace());
    println!("{url} answers {}", http.get(&url).send().await?.status());
    Ok(())
}
