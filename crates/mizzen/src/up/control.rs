//! x
use std::net::IpAddr;
pub(super) struct Running;
impl Running {
    pub(super) fn proxies(&self) -> impl Fn() -> Vec<IpAddr> + Send + Sync + 'static {
        Vec::new
    }
    pub(super) async fn shutdown(self) {}
}
