//! One worker: a thread with its own sockets, connections, pools and statistics. It is told of changes by message.

mod message;
mod run;
mod state;

pub use message::{ClusterUpdate, Config, Demand, Message, Servers};
pub use run::{WorkerHandle, start};
pub use state::{Node, Shared, Worker};
