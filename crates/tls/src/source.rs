//! Where the current certificate and the current roots are: swapped live, read without a lock.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use crate::bundle::TrustBundle;
use crate::identity::Identity;

/// A value that is read at each handshake and replaced at any time. Clones share it.
struct Live<T> {
    value: Arc<ArcSwapOption<T>>,
    version: watch::Sender<u64>,
}

impl<T> Live<T> {
    fn new(value: Option<T>) -> Self {
        let version = watch::Sender::new(u64::from(value.is_some()));
        Self { value: Arc::new(ArcSwapOption::from_pointee(value)), version }
    }

    fn set(&self, value: T) {
        self.value.store(Some(Arc::new(value)));
        self.version.send_modify(|v| *v += 1);
    }
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), version: self.version.clone() }
    }
}

macro_rules! source {
    ($(#[$doc:meta])* $name:ident of $type:ty) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(Live<$type>);

        impl $name {
            /// A source that has nothing yet: handshakes fail until [`Self::set`].
            pub fn empty() -> Self {
                Self(Live::new(None))
            }

            pub fn new(value: $type) -> Self {
                Self(Live::new(Some(value)))
            }

            pub fn current(&self) -> Option<Arc<$type>> {
                self.0.value.load_full()
            }

            /// From the next handshake on, this is current.
            pub fn set(&self, value: $type) {
                self.0.set(value);
            }

            /// Yields a version that grows with each [`Self::set`]; 0 means that there was none.
            pub fn watch(&self) -> watch::Receiver<u64> {
                self.0.version.subscribe()
            }

            /// Waits until there is a value.
            pub async fn ready(&self) -> Arc<$type> {
                let mut versions = self.watch();
                loop {
                    versions.mark_unchanged();
                    if let Some(value) = self.current() {
                        return value;
                    }
                    // The sender lives as long as `self`.
                    let _ = versions.changed().await;
                }
            }

            /// Whether both are the same source.
            pub fn same(&self, other: &Self) -> bool {
                Arc::ptr_eq(&self.0.value, &other.0.value)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.current()).finish()
            }
        }
    };
}

source! {
    /// The current [`Identity`].
    IdentitySource of Identity
}

source! {
    /// The current [`TrustBundle`].
    BundleSource of TrustBundle
}
