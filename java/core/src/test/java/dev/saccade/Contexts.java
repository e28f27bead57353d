package dev.saccade;

import java.util.ArrayList;
import java.util.List;

/**
 * Contexts that tests run on: those of the CPU, or with {@code -Dsaccade.test.device=cuda} one of
 * the first GPU.
 */
final class Contexts {
  static final boolean CUDA = "cuda".equals(System.getProperty("saccade.test.device"));

  private Contexts() {}

  static boolean onGpu() {
    return CUDA;
  }

  /** The default context of the device. */
  static Context one() {
    return CUDA ? Context.cuda(0) : Context.cpu();
  }

  /** Whether there is a GPU that this build can use. */
  static boolean hasGpu() {
    try {
      Context.cuda(0).close();
      return true;
    } catch (UnsupportedException e) {
      return false;
    }
  }

  /** One CPU context for each instruction set of this machine, or one of the GPU. */
  static List<Context> every() {
    List<Context> contexts = new ArrayList<>();
    if (CUDA) {
      contexts.add(one());
      return contexts;
    }
    for (String name : new String[] {"baseline", "avx2", "avx512"}) {
      try {
        contexts.add(Context.builder().instructionSet(name).build());
      } catch (UnsupportedException e) {
        // this machine lacks it
      }
    }
    return contexts;
  }
}
