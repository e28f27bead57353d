package dev.saccade.benchmarks;

/**
 * Rows by index. Gathering reads {@code table}; scattering adds {@code rows} to it.
 *
 * @param table [tableRows, columns]
 * @param rows [index.length, columns]
 * @param index rows of the table
 */
public record RowsInputs(int tableRows, int columns, float[] table, float[] rows, int[] index) {
  static RowsInputs of(int tableRows, int count, int columns) {
    return new RowsInputs(
        tableRows,
        columns,
        Data.normal(1, (long) tableRows * columns, 1),
        Data.normal(2, (long) count * columns, 1),
        index(tableRows, count));
  }

  static int[] index(int tableRows, int count) {
    return Data.indices(3, count, tableRows);
  }
}
