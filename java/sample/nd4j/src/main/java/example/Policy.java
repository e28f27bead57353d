package example;

import java.util.LinkedHashMap;
import java.util.Map;
import org.nd4j.autodiff.samediff.SDVariable;
import org.nd4j.autodiff.samediff.SameDiff;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/**
 * A causal attention layer in SameDiff, that predicts the token after each of B sequences of T
 * tokens. It takes tokens and positions one-hot, x [B·T, vocabulary + T], and gives logits [B,
 * vocabulary], and q and k [B·T, width].
 */
final class Policy {
  static final String[] PARAMETERS = {"embedding", "wq", "wk", "wv", "wo", "head"};

  final SameDiff graph = SameDiff.create();
  final SDVariable q;
  final SDVariable k;
  final SDVariable logits;

  /** Of B sequences: [B, T, T]. */
  final SDVariable attention;

  Policy(DataType type, int b, int t, int vocabulary, int width) {
    long[][] shapes = {
      {vocabulary + t, width},
      {width, width},
      {width, width},
      {width, width},
      {width, width},
      {width, vocabulary}
    };
    Map<String, SDVariable> w = new LinkedHashMap<>();
    for (int i = 0; i < shapes.length; i++) {
      double scale = i == 0 ? 0.5 : 1 / Math.sqrt(width);
      INDArray initial = Nd4j.randn(DataType.FLOAT, shapes[i]).muli(scale).castTo(type);
      w.put(PARAMETERS[i], graph.var(PARAMETERS[i], initial));
    }
    SDVariable x = graph.placeHolder("x", type, (long) b * t, vocabulary + t);
    SDVariable h = x.mmul(w.get("embedding"));
    q = h.mmul("q", w.get("wq"));
    k = h.mmul("k", w.get("wk"));
    INDArray future = Nd4j.zeros(type, 1, t, t);
    for (int i = 0; i < t; i++) {
      for (int j = i + 1; j < t; j++) {
        future.putScalar(new long[] {0, i, j}, -1e9);
      }
    }
    SDVariable scores =
        graph.mmul(q.reshape(b, t, width), k.reshape(b, t, width), false, true, false);
    attention =
        graph.nn.softmax(
            scores.mul(1 / Math.sqrt(width)).add(graph.constant("future", future)), -1);
    SDVariable attended =
        attention.mmul(h.mmul(w.get("wv")).reshape(b, t, width)).reshape((long) b * t, width);
    SDVariable rows =
        graph
            .stridedSlice(
                h.add(attended.mmul(w.get("wo"))).reshape(b, t, width),
                new long[] {0, t - 1, 0},
                new long[] {b, t, width},
                1,
                1,
                1)
            .reshape(b, width);
    logits = rows.mmul("logits", w.get("head"));
  }
}
