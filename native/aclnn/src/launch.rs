//! The second phase: queues what the first has settled.

use std::sync::Arc;

use crate::compute::execute;
use crate::inject;
use crate::memory::{Access, Location};
use crate::plan::{Plan, Span};
use crate::state::{Kind, Object, State};
use crate::status::{Checked, Failure, Family, NO_EXECUTOR, PARAM_INVALID, PARAM_NULLPTR, RUNTIME_ERROR, fail};
use crate::stream::Task;

/// The second phase: queues an executor's work.
pub fn launch(state: &mut State, executor: usize, workspace: usize, size: u64, stream: usize) -> Checked<()> {
    let known = state.executor(executor, NO_EXECUTOR)?;
    let (plan, repeatable) = (Arc::clone(&known.plan), known.repeatable);
    let result = queue(state, &plan, workspace, size, stream);
    if !repeatable {
        state.remove("executor", executor, Kind::Executor, NO_EXECUTOR)?;
    }
    result
}

fn queue(state: &mut State, plan: &Arc<Plan>, workspace: usize, size: u64, stream: usize) -> Checked<()> {
    state.check_device(Family::Aclnn)?;
    for (what, handle) in &plan.tensors {
        if !state.is_live(*handle) {
            return fail(RUNTIME_ERROR, format!("{what} was destroyed before the second phase"));
        }
    }
    let mut spans: Vec<Span> = plan.inputs().chain([plan.out]).collect();
    if plan.workspace > 0 {
        if workspace == 0 {
            return fail(PARAM_NULLPTR, format!("workspace is null, and {} bytes are needed", plan.workspace));
        }
        if size < plan.workspace as u64 {
            return fail(PARAM_INVALID, format!("workspaceSize is {size}, and {} bytes are needed", plan.workspace));
        }
        let own = Span { what: "workspace", address: workspace, len: plan.workspace, access: Access::Write };
        if let Some(other) = spans.iter().find(|other| own.overlaps(other)) {
            return fail(PARAM_INVALID, format!("workspace and {} share memory", other.what));
        }
        spans.push(own);
    }
    let (handle, _) = state.stream(stream, Family::Aclnn)?;
    spans.retain(|span| span.len > 0);
    for span in &spans {
        let refused = |failure: Failure| Failure { code: RUNTIME_ERROR, ..failure };
        let memory = &state.memory;
        memory.check_inside(span.what, span.address, span.len, Location::Device).map_err(refused)?;
        memory.check_settled(span.what, span.address, span.len, span.access, Some(handle)).map_err(refused)?;
    }
    let task: Task = {
        let plan = Arc::clone(plan);
        Box::new(move || {
            inject::check(Family::Acl, inject::EXECUTION)?;
            // SAFETY: the addresses were live device memory, aligned, when the work was queued; memory that queued work
            // uses is neither freed nor written by anything else, and `out` shares none with the inputs.
            unsafe { execute(&plan) }
        })
    };
    let ticket = state.stream(handle, Family::Aclnn)?.1.submit(task);
    for span in &spans {
        state.memory.note_use(handle, ticket, span.address, span.len, span.access);
    }
    Ok(())
}

/// Takes an executor out whose second phase is not wanted.
pub fn destroy(state: &mut State, executor: usize) -> Checked<()> {
    state.remove("executor", executor, Kind::Executor, NO_EXECUTOR).map(|removed| match removed {
        Object::Executor(executor) => drop(executor),
        _ => unreachable!("looked up by kind"),
    })
}
