package dev.saccade;

import org.bytedeco.javacpp.Pointer;

/** A range of memory that tensors view: allocated from a context's pool, or foreign and kept alive. */
final class Storage {
  /** A JavaCPP pointer to an address, owning nothing. */
  static final class Address extends Pointer {
    Address(long address, long bytes) {
      this.address = address;
      this.limit = bytes;
      this.capacity = bytes;
    }
  }

  private final Context context;
  private final long address;
  private final long bytes;
  private final boolean owned;

  /** What keeps foreign memory from being collected. */
  private final Object keepAlive;

  private final String what;
  private final Throwable site;
  private boolean open = true;

  Storage(Context context, long address, long bytes, boolean owned, Object keepAlive, String what) {
    this.context = context;
    this.address = address;
    this.bytes = bytes;
    this.owned = owned;
    this.keepAlive = keepAlive;
    this.what = what;
    this.site = Context.DEBUG ? new Throwable() : null;
  }

  Context context() {
    return context;
  }

  long address() {
    return address;
  }

  long bytes() {
    return bytes;
  }

  Object keepAlive() {
    return keepAlive;
  }

  boolean isOpen() {
    return open && context.isOpen();
  }

  /** Frees owned memory; forgets foreign memory. Idempotent. */
  void close() {
    if (open) {
      open = false;
      if (owned && context.isOpen()) {
        context.memory().free(this);
      }
    }
  }

  /** The context frees all it allocated: nothing more to do here. */
  void markClosed() {
    open = false;
  }

  String describe() {
    StringBuilder line = new StringBuilder(what).append(", ").append(bytes).append(" bytes");
    if (site != null) {
      line.append(", allocated at ");
      StackWalkerSite.firstOutside(site, line);
    }
    return line.toString();
  }

  /** Finds the caller's frame in a recorded stack. */
  private static final class StackWalkerSite {
    static void firstOutside(Throwable site, StringBuilder line) {
      for (StackTraceElement frame : site.getStackTrace()) {
        String name = frame.getClassName();
        if (!name.startsWith("dev.saccade.") || name.indexOf('.', "dev.saccade.".length()) > 0 || name.endsWith("Test")) {
          line.append(frame);
          return;
        }
      }
      line.append("an unknown place");
    }
  }
}
