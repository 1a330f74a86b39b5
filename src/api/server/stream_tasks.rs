//! The tasks of one HTTP/2 connection, one for each request in progress.
//!
//! hyper wants to spawn them; here they have an owner, so that none outlives its connection. Their number is bounded
//! by the concurrent streams that the connection allows.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::rt::Executor;
use tokio::task::JoinSet;

/// Spawns and owns. When the last clone is dropped, what still runs is ended.
#[derive(Clone, Default)]
pub(super) struct StreamTasks(Arc<Mutex<JoinSet<()>>>);

impl<F> Executor<F> for StreamTasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        // A panic cannot happen while the lock is held, so poison says nothing.
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Forget those that ended, so that the set stays as small as what runs.
        while let Some(ended) = tasks.try_join_next() {
            if ended.is_err_and(|error| error.is_panic()) {
                tracing::error!("a panic while serving HTTP/2 ended a request; please report it");
            }
        }
        tasks.spawn(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn dropping_the_owner_ends_what_runs() {
        let tasks = StreamTasks::default();
        let (held, ended) = tokio::sync::oneshot::channel::<()>();
        tasks.execute(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        drop(tasks.clone());
        drop(tasks);
        assert!(ended.await.is_err());
    }

    #[tokio::test]
    async fn those_that_ended_are_forgotten() {
        let tasks = StreamTasks::default();
        for _ in 0..100 {
            let (done, wait) = tokio::sync::oneshot::channel::<()>();
            tasks.execute(async move { drop(done) });
            assert!(wait.await.is_err());
            tokio::task::yield_now().await;
        }
        assert!(tasks.0.lock().unwrap().len() <= 2);
    }
}
