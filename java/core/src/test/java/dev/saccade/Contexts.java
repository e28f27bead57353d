package dev.saccade;

import java.util.ArrayList;
import java.util.List;

/** Contexts that tests run on. */
final class Contexts {
  private Contexts() {}

  /** One CPU context for each instruction set of this machine. */
  static List<Context> everyInstructionSet() {
    List<Context> contexts = new ArrayList<>();
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
