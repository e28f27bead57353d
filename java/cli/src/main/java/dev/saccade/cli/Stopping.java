package dev.saccade.cli;

import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/**
 * Lets what is in hand end, and be saved, when the process is asked to end: from the signal until
 * {@link #close}, or for a minute.
 */
final class Stopping implements AutoCloseable {
  private final CountDownLatch saved = new CountDownLatch(1);
  private final Thread hook = new Thread(this::stopAndWait, "stop");
  private volatile boolean asked;

  Stopping() {
    Runtime.getRuntime().addShutdownHook(hook);
  }

  /** Whether the process is asked to end. */
  boolean asked() {
    return asked;
  }

  private void stopAndWait() {
    asked = true;
    try {
      saved.await(1, TimeUnit.MINUTES);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  @Override
  public void close() {
    saved.countDown();
    try {
      Runtime.getRuntime().removeShutdownHook(hook);
    } catch (IllegalStateException e) {
      // The process is ending already.
    }
  }
}
