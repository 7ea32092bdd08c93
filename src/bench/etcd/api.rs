//! The few of etcd's messages that a load needs, with the fields that it needs, by the numbers of
//! etcd's `rpc.proto` and `kv.proto`; what else an answer has is passed over. And how a command of
//! the Redis protocol becomes one of them.

use bytes::Bytes;
use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::bench::resp::{self, Reply};

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

/// What is asked of etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Put { key: Bytes, value: Bytes },
    Get { key: Bytes },
}

impl Request {
    /// What a command of the Redis protocol means; nothing if etcd has nothing like it.
    pub(super) fn of(command: &[u8]) -> Option<Self> {
        let Ok(Some((Reply::Array(parts), _))) = resp::parse(command) else { return None };
        let bulk = |part: &Reply<'_>| match part {
            Reply::Bulk(bytes) => Some(Bytes::copy_from_slice(bytes)),
            Reply::Simple(_) | Reply::Error(_) | Reply::Int(_) | Reply::Nil | Reply::Array(_) => {
                None
            }
        };
        match &parts[..] {
            [Reply::Bulk(b"SET"), key, value] => {
                Some(Self::Put { key: bulk(key)?, value: bulk(value)? })
            }
            [Reply::Bulk(b"GET"), key] => Some(Self::Get { key: bulk(key)? }),
            _ => None,
        }
    }
}

/// What etcd answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Response {
    Written,
    Found(Bytes),
    Missing,
    /// gRPC's code, then etcd's words.
    Failed(String),
}

impl Response {
    /// As a server that speaks the Redis protocol would say it.
    pub(super) fn as_reply(&self) -> Reply<'_> {
        match self {
            Self::Written => Reply::Simple(b"OK"),
            Self::Found(value) => Reply::Bulk(value),
            Self::Missing => Reply::Nil,
            Self::Failed(text) => Reply::Error(text.as_bytes()),
        }
    }
}

/// A connection, which is made anew when it breaks. Copies share it.
#[derive(Clone, Debug)]
pub(super) struct Kv(Grpc<Channel>);

impl Kv {
    /// Connects.
    pub(super) async fn connect(address: std::net::SocketAddr) -> Result<Self, tonic::Status> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let endpoint = endpoint.map_err(|error| tonic::Status::internal(error.to_string()))?;
        let connected = endpoint.connect().await;
        Ok(Self(Grpc::new(connected.map_err(|error| tonic::Status::from_error(error.into()))?)))
    }

    /// Asks and waits for the answer.
    pub(super) async fn call(mut self, request: Request) -> Response {
        match self.answered(request).await {
            Ok(response) => response,
            Err(status) => Response::Failed(format!("{:?} {}", status.code(), status.message())),
        }
    }

    async fn answered(&mut self, request: Request) -> Result<Response, tonic::Status> {
        let ready = self.0.ready().await;
        ready.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        match request {
            Request::Put { key, value } => {
                let codec = ProstCodec::<PutRequest, PutResponse>::default();
                let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
                let request = tonic::Request::new(PutRequest { key, value });
                self.0.unary(request, path, codec).await.map(|_| Response::Written)
            }
            Request::Get { key } => {
                let codec = ProstCodec::<RangeRequest, RangeResponse>::default();
                let path = PathAndQuery::from_static("/etcdserverpb.KV/Range");
                let request = tonic::Request::new(RangeRequest { key });
                let found = self.0.unary(request, path, codec).await?.into_inner().kvs.pop();
                Ok(found.map_or(Response::Missing, |kv| Response::Found(kv.value)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn commands_become_requests_or_nothing() {
        let request = |args: &[&[u8]]| {
            let mut out = Vec::new();
            resp::command(&mut out, args);
            Request::of(&out)
        };
        let put = Request::Put { key: "k".into(), value: "v".into() };
        assert_eq!(request(&[b"SET", b"k", b"v"]), Some(put));
        assert_eq!(request(&[b"GET", b"k"]), Some(Request::Get { key: "k".into() }));
        assert_eq!(request(&[b"INCR", b"k"]), None);
        assert_eq!(Request::of(b"+OK\r\n"), None);
        assert_eq!(Request::of(b""), None);
    }

    #[test]
    fn messages_lie_as_etcd_s_protocol_has_them() {
        let put = PutRequest { key: "ab".into(), value: "c".into() };
        assert_eq!(put.encode_to_vec(), b"\x0a\x02ab\x12\x01c");
        // A header (1), one pair (2) with key (1), version (4) and value (5), more (3), count (4).
        let answer = b"\x0a\x02\x18\x07\x12\x08\x0a\x01k\x20\x01\x2a\x01v\x18\x00\x20\x01";
        let answer = RangeResponse::decode(&answer[..]).unwrap();
        assert_eq!(answer.kvs, [KeyValue { value: "v".into() }]);
        let failed = Response::Failed("Unavailable etcdserver: no leader".into());
        assert_eq!(failed.as_reply().error_kind(), Some("Unavailable"));
    }
}
