package dev.saccade.reference;

/** {@code scatter_add_rows} in double precision, from its definition. */
public final class ScatterAddRowsReference {
  private ScatterAddRowsReference() {}

  /** y[index[i]] += x[i]; an index that is not a row of y is skipped. */
  public static void add(double[][] x, int[] index, double[][] y) {
    for (int i = 0; i < x.length; i++) {
      if (index[i] >= 0 && index[i] < y.length) {
        for (int j = 0; j < x[i].length; j++) {
          y[index[i]][j] += x[i][j];
        }
      }
    }
  }
}
