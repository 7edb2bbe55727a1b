//! What filters do to bodies: which of them a request has passed, and what becomes of its body and of its answer's.

use std::sync::Arc;

use super::compress::{Coding, Compressors};
use super::decompress::{Decode, Decompressor};
use super::grpc_web::GrpcWeb;
use crate::ext_proc::Processing;
use crate::machine::Count;
use crate::request::Response;

/// What a filter does to a body on its way.
#[derive(Debug, Clone)]
pub enum BodyFilter {
    Encode(Coding),
    Decode(Box<Decode>),
    /// gRPC out of gRPC-Web's base64.
    WebText,
    /// gRPC's messages and its trailers as gRPC-Web says them, in base64 where it is `text`.
    Web {
        text: bool,
    },
    /// An external processor sees it.
    Process(Box<Processing>),
    /// What is no gRPC becomes the message of gRPC's status: the head waits for it.
    WebMessage,
}

/// A filter that has to do with bodies, as a request passed it.
#[derive(Debug, Clone)]
pub(crate) enum BodyPass {
    /// Which of the compressors.
    Compress(usize),
    Decompress(Arc<Decompressor>),
    Web(GrpcWeb),
    Process(Box<Processing>),
}

/// The filters that a request has passed and that have to do with bodies, in their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct BodyPasses {
    pub(crate) compressors: Compressors,
    pub(crate) passes: Vec<BodyPass>,
}

/// How far an answer has come on its way back through the filters.
#[derive(Debug, Clone, Default)]
pub struct Answering {
    passed: usize,
    /// The coding that the client is to get, once that is asked.
    chosen: Option<Option<&'static str>>,
    /// What filters counted.
    pub counts: Vec<Count>,
}

impl BodyPasses {
    /// The next filter that changes the answer's body: its head is changed already. Answers pass filters the other way
    /// round.
    pub(crate) fn next(
        &self,
        at: &mut Answering,
        owner: &Arc<str>,
        response: &mut Response,
        has_body: bool,
        upgrade: bool,
    ) -> Option<BodyFilter> {
        while let Some(pass) = self.passes.iter().rev().nth(at.passed) {
            at.passed += 1;
            let filter = match pass {
                BodyPass::Compress(which) => self
                    .compressors
                    .encode(*which, &mut at.chosen, response, has_body, upgrade)
                    .map(BodyFilter::Encode),
                BodyPass::Decompress(decompressor) if has_body => {
                    let (decode, count) = decompressor.response(owner, &mut response.headers);
                    at.counts.push(count);
                    decode.map(|decode| BodyFilter::Decode(Box::new(decode)))
                }
                BodyPass::Decompress(_) => None,
                BodyPass::Web(web) => web.answer(response, has_body),
                BodyPass::Process(processing) => Some(BodyFilter::Process(processing.clone())),
            };
            if filter.is_some() {
                return filter;
            }
        }
        None
    }
}
