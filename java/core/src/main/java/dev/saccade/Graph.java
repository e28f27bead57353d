package dev.saccade;

import dev.saccade.binding.Saccade;

/**
 * Operations that were recorded once on a GPU and run again as one launch, on the same tensors.
 * What changes from run to run is what the tensors hold; options that take a device scalar
 * (learning rate, step, coefficient of the KL term, scale of the gradient, offset of the random
 * numbers) read it in every run.
 *
 * <p>A graph owns the memory that was allocated while it was recorded, workspaces included, until
 * it closes: its runs never write what another tensor got since. Tensors that were made meanwhile
 * hold the results of the last run; once closed they are the graph's to write to.
 *
 * <p>Used by one thread at a time, as its context is.
 */
public final class Graph implements AutoCloseable {
  private final Context context;
  private final MemoryPool.Arena arena;

  /** 0 when closed. */
  private long handle;

  Graph(Context context, MemoryPool.Arena arena, long handle) {
    this.context = context;
    this.arena = arena;
    this.handle = handle;
  }

  /**
   * Records what {@code work} gives the context, without running it.
   *
   * @param context of a GPU, with a stream of its own or a foreign one that is not the legacy
   *     default stream
   * @param work calls operations of the context; it may allocate tensors, and copy between tensors
   *     of the GPU, but neither read results nor upload data
   * @throws UnsupportedException on the CPU, or if {@code work} copies from or to host memory
   */
  public static Graph capture(Context context, Runnable work) {
    InvalidArgumentException.requirePresent("graph", "context", context);
    InvalidArgumentException.requirePresent("graph", "work", work);
    return context.capture(work);
  }

  /** Runs what was recorded, after all that the context was given before. */
  public void launch() {
    try (Call call = context.begin("graph_launch")) {
      if (handle == 0) {
        throw new ClosedException("graph_launch: the graph is closed");
      }
      call.invoke(Saccade.saccade_graph_launch(context.handle(), handle));
    }
  }

  /**
   * Frees the graph and its memory. Closing twice is allowed, also after the context was closed.
   */
  @Override
  public void close() {
    context.enter("close");
    try {
      if (handle == 0) {
        return;
      }
      Saccade.saccade_graph_destroy(context.handle(), handle);
      handle = 0;
      context.memory().release(arena);
      context.forget(this);
    } finally {
      context.exit();
    }
  }
}
