//! Records what a real server answers in every state that it can be brought into: `tests/corpus/record` runs this.
//!
//! Arguments are names of groups; without one, all groups run. `KMS_PLUGIN_TESTS_SERVER` chooses the server.

#![allow(clippy::restriction)] // a recorder that fails panics, and prints
#![allow(unreachable_pub, missing_docs)] // nobody uses this program as a library

mod answer;
mod call;
mod placeholders;
mod server;
mod states;
#[path = "../../integration/support/mod.rs"]
#[allow(dead_code)] // the other tests' support code, of which a part is used
mod support;

use answer::Recorder;
use server::{Options, Server};
use support::product::Product;

#[tokio::main]
async fn main() {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let product = Product::chosen();
    let version = {
        let server = Server::start(product, &Options::default()).await;
        let status = server.send(&call::Call::get("sys/seal-status")).await.json();
        status["version"].as_str().unwrap().to_owned()
    };
    let recorder = Recorder::new(product, &version);
    let groups = states::names();
    if let Some(unknown) = wanted.iter().find(|name| !groups.contains(&name.as_str())) {
        eprintln!("{unknown} is not a group: {}", groups.join(" "));
        std::process::exit(64);
    }
    for name in groups {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            println!("{} {version}: {name}", product.name());
            states::record(name, &recorder).await;
        }
    }
    for new in recorder.news.borrow().iter() {
        println!("new words: {new}");
    }
    if wanted.is_empty() {
        for file in recorder.stale() {
            println!("no longer recorded, remove it: {file}");
        }
    }
}
