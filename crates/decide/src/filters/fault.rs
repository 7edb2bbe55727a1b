//! Fault injection: delays and aborts.

use std::time::Duration;

use base::Random;
use proto::pb::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use proto::pb::envoy::extensions::filters::http::fault::v3 as pb;

use crate::matching::HeaderMatcher;
use crate::refusal::{Refusal, Taken, Within, each};
use crate::request::Request;
use crate::wire::{Chance, duration};

#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) delay: Option<(Delay, Chance)>,
    pub(crate) abort: Option<(Abort, Chance)>,
    /// Only for requests to this cluster.
    pub(crate) upstream_cluster: Option<Box<str>>,
    headers: Vec<HeaderMatcher>,
    downstream_nodes: Vec<Box<str>>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Delay {
    Fixed(Duration),
    /// `x-envoy-fault-delay-request`, in milliseconds.
    Header,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Abort {
    Http(u16),
    Grpc(u32),
    /// `x-envoy-fault-abort-request` or `-grpc-request`.
    Header,
}

impl Fault {
    pub(crate) fn applies(&self, request: &Request, cluster: Option<&str>) -> bool {
        self.upstream_cluster.as_deref().is_none_or(|wanted| cluster == Some(wanted))
            && self.headers.iter().all(|h| h.matches(request))
            && (self.downstream_nodes.is_empty() || {
                let node = request.headers.get_str("x-envoy-downstream-service-node");
                node.is_some_and(|n| self.downstream_nodes.iter().any(|d| &**d == n))
            })
    }

    pub(crate) fn draw_delay<R: Random + ?Sized>(&self, request: &Request, rng: &mut R) -> Option<Duration> {
        let (delay, chance) = self.delay?;
        let delay = match delay {
            Delay::Fixed(delay) => delay,
            Delay::Header => Duration::from_millis(header(request, "x-envoy-fault-delay-request")?),
        };
        let chance = by_header(request, "x-envoy-fault-delay-request-percentage", chance);
        (!delay.is_zero() && chance.draw(rng)).then_some(delay)
    }

    /// HTTP status or gRPC code.
    pub(crate) fn draw_abort<R: Random + ?Sized>(&self, request: &Request, rng: &mut R) -> Option<Abort> {
        let (abort, chance) = self.abort?;
        let abort = match abort {
            Abort::Header => match header(request, "x-envoy-fault-abort-request") {
                Some(status) => Abort::Http(u16::try_from(status).ok().filter(|s| (200..600).contains(s))?),
                None => {
                    Abort::Grpc(u32::try_from(header(request, "x-envoy-fault-abort-grpc-request")?).ok()?)
                }
            },
            abort => abort,
        };
        by_header(request, "x-envoy-fault-abort-request-percentage", chance).draw(rng).then_some(abort)
    }

    pub(crate) fn compile(message: &pb::HttpFault) -> Taken<Self> {
        let delay = match &message.delay {
            None => None,
            Some(delay) => {
                let chance = delay.percentage.as_ref().map_or(Ok(Chance::NEVER), Chance::of);
                let kind = match &delay.fault_delay_secifier {
                    Some(FaultDelaySecifier::FixedDelay(d)) => {
                        Delay::Fixed(duration(&Some(*d), "fixedDelay").within("delay")?.unwrap_or_default())
                    }
                    Some(FaultDelaySecifier::HeaderDelay(_)) => Delay::Header,
                    None => return Err(Refusal::new("says no delay").under("delay")),
                };
                Some((kind, chance.within("percentage").within("delay")?))
            }
        };
        let abort = message.abort.as_ref().map(|a| compile_abort(a).within("abort")).transpose()?;
        Ok(Self {
            delay,
            abort,
            upstream_cluster: (!message.upstream_cluster.is_empty())
                .then(|| message.upstream_cluster.as_str().into()),
            headers: each(&message.headers, "headers", HeaderMatcher::compile)?,
            downstream_nodes: message.downstream_nodes.iter().map(|n| n.as_str().into()).collect(),
        })
    }
}

fn compile_abort(abort: &pb::FaultAbort) -> Taken<(Abort, Chance)> {
    use pb::fault_abort::ErrorType;
    let kind = match &abort.error_type {
        Some(ErrorType::HttpStatus(status)) => {
            let status = u16::try_from(*status).ok().filter(|s| (200..600).contains(s));
            Abort::Http(status.ok_or_else(|| Refusal::new("must be from 200 to 599").under("httpStatus"))?)
        }
        Some(ErrorType::GrpcStatus(code)) => Abort::Grpc(*code),
        Some(ErrorType::HeaderAbort(_)) => Abort::Header,
        None => return Err(Refusal::new("says no status")),
    };
    let chance = abort.percentage.as_ref().map_or(Ok(Chance::NEVER), Chance::of).within("percentage")?;
    Ok((kind, chance))
}

fn header(request: &Request, name: &str) -> Option<u64> {
    request.headers.get_str(name)?.parse().ok()
}

/// The client may lower the share by header, not raise it.
fn by_header(request: &Request, name: &str, chance: Chance) -> Chance {
    match request.headers.get_str(name).and_then(|p| p.parse::<f64>().ok()) {
        Some(percent) => Chance::percent(percent.min(chance.as_percent())),
        None => chance,
    }
}
