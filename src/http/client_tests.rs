//! The client against a server of a few lines, which does what a real one cannot be made to do at a known moment.

use std::sync::Arc;

use rustls::RootCertStore;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use super::*;

/// A client of a server on this port.
fn client(listener: &TcpListener, path: &str) -> Client {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let base = Url::parse(&format!("http://{}{path}", listener.local_addr().unwrap())).unwrap();
    Client::new(Route::new(&base, &Arc::new(tls)).unwrap())
}

async fn get(client: &Client) -> Result<String, HttpError> {
    let mut request = Request::new(Full::new(Bytes::new()));
    *request.uri_mut() = client.uri("v1/x").unwrap();
    let body = client.send(request).await?.body(100).await?;
    Ok(String::from_utf8(body.expect("at most 100 bytes").to_vec()).unwrap())
}

/// Reads one request, and answers it.
async fn answer(stream: &mut TcpStream, text: &str) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.unwrap());
    }
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len());
    stream.write_all((head + text).as_bytes()).await.unwrap();
}

#[tokio::test]
async fn a_connection_is_kept_and_one_that_the_server_closed_is_replaced() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client(&listener, "/");
    let server = async {
        let (mut first, _) = listener.accept().await.unwrap();
        answer(&mut first, "one").await;
        answer(&mut first, "two").await;
        drop(first);
        let (mut second, _) = listener.accept().await.unwrap();
        answer(&mut second, "three").await;
        second
    };
    let caller = async {
        assert_eq!(get(&client).await.unwrap(), "one");
        assert_eq!(get(&client).await.unwrap(), "two");
        // Until the end of the connection has come.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(get(&client).await.unwrap(), "three");
        assert_eq!(client.kept.lock().unwrap().len(), 1);
    };
    let (_open, ()) = tokio::join!(server, caller);
}

#[tokio::test]
async fn a_request_that_the_server_may_have_seen_is_not_sent_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client(&listener, "/");
    let server = async {
        let (mut first, _) = listener.accept().await.unwrap();
        answer(&mut first, "one").await;
        let _request = first.read_u8().await.unwrap();
        drop(first);
        assert!(
            tokio::time::timeout(Duration::from_millis(200), listener.accept()).await.is_err(),
            "the request came again"
        );
    };
    let caller = async {
        assert_eq!(get(&client).await.unwrap(), "one");
        get(&client).await.unwrap_err();
        assert!(client.kept.lock().unwrap().is_empty());
    };
    tokio::join!(server, caller);
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_and_a_dropped_request_closes_its_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client(&listener, "/");
    let server = async {
        let (mut first, _) = listener.accept().await.unwrap();
        answer(&mut first, &"x".repeat(101)).await;
        assert_eq!(first.read(&mut [0; 1]).await.unwrap_or_default(), 0, "it is closed");
        let (mut second, _) = listener.accept().await.unwrap();
        let mut read = Vec::new();
        let _closed = second.read_to_end(&mut read).await;
    };
    let caller = async {
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = client.uri("v1/x").unwrap();
        assert!(client.send(request).await.unwrap().body(100).await.unwrap().is_none());
        assert!(tokio::time::timeout(Duration::from_millis(100), get(&client)).await.is_err());
    };
    tokio::join!(server, caller);
}

#[tokio::test]
async fn a_uri_is_that_of_the_joined_url() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for prefix in ["/", "/gateway/vault/"] {
        let client = client(&listener, prefix);
        for path in
            ["v1/transit/encrypt/k", "v1/sys/health?a=1&b=2", "v1/auth/userpass/login/b ö.b~%2f", "v1/a/../b"]
        {
            let joined = Url::parse(&format!("http://h{prefix}")).unwrap().join(path).unwrap();
            let wanted = &joined[url::Position::BeforePath..];
            assert_eq!(client.uri(path).unwrap().to_string(), wanted);
            assert_eq!(client.uri(path).unwrap().to_string(), wanted, "of the list");
        }
    }
}

#[tokio::test]
async fn few_uris_are_kept() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client(&listener, "/");
    for number in 0..3 * MAX_URIS {
        assert_eq!(client.uri(&format!("v1/{number}")).unwrap().path(), format!("/v1/{number}"));
    }
    assert_eq!(client.uris.lock().unwrap().len(), MAX_URIS);
}
