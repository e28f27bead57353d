package dev.saccade.reference;

/** {@code gather_rows} in double precision, from its definition. */
public final class GatherRowsReference {
  private GatherRowsReference() {}

  /**
   * @param x rows of C columns
   * @param index of x, or null
   * @param outIndex of y, or null
   * @param y rows of C columns, updated
   */
  public static void gather(
      double[][] x, int[] index, int[] outIndex, boolean accumulate, double[][] y, int count) {
    for (int i = 0; i < count; i++) {
      int from = index == null ? i : index[i];
      int to = outIndex == null ? i : outIndex[i];
      if (to < 0 || to >= y.length) {
        continue;
      }
      for (int j = 0; j < y[to].length; j++) {
        double old = accumulate ? y[to][j] : 0;
        boolean there = from >= 0 && from < x.length;
        y[to][j] = there ? old + x[from][j] : from == -1 ? old : Double.NaN;
      }
    }
  }
}
