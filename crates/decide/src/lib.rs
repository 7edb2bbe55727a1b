//! xDS in; compiled `Plan` and explained `Decision` out. No I/O.
