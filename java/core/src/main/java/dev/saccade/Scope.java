package dev.saccade;

import java.util.ArrayList;
import java.util.List;

/**
 * Owns the tensors that are created in it: closing it frees them all, in the order of the context's stream. Made for
 * try-with-resources; closing twice is allowed. A scope may outlive others and scopes may overlap; they do not nest.
 */
public final class Scope implements AutoCloseable {
  private final Context context;
  private final List<Storage> owned = new ArrayList<>();
  private boolean open = true;

  Scope(Context context) {
    this.context = context;
  }

  /** The context whose memory this scope hands out. */
  public Context context() {
    return context;
  }

  Storage allocate(long bytes, String what) {
    requireOpen();
    Storage storage = context.memory().allocate(bytes, what);
    owned.add(storage);
    return storage;
  }

  Storage adopt(Storage foreign) {
    requireOpen();
    owned.add(foreign);
    return foreign;
  }

  private void requireOpen() {
    if (!open) {
      throw new ClosedException("the scope is closed: its tensors are freed and it takes no new ones");
    }
    if (!context.isOpen()) {
      throw new ClosedException("the context of this scope is closed");
    }
  }

  @Override
  public void close() {
    if (!open) {
      return;
    }
    if (context.isOpen()) {
      try (Call ignored = context.begin("close")) {
        owned.forEach(Storage::close);
      }
    }
    owned.clear();
    open = false;
  }

  @Override
  public String toString() {
    return "Scope[" + owned.size() + " tensors on " + context.device() + (open ? "]" : ", closed]");
  }
}
