package example;

import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.SampleTokens;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import dev.saccade.TokenLogProbs;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.util.Arrays;
import java.util.Base64;
import java.util.Map;
import java.util.Set;

/** ONNX Runtime computes a policy's logits, Saccade draws tokens and scores them, in place. */
public final class Embed {
  /** x[rows, width] and w[width, vocabulary] to logits = x·w; yours is a file. */
  private static final byte[] MODEL =
      Base64.getDecoder()
          .decode(
              "CAhCAhANOooBChYKAXgKAXcSBmxvZ2l0cyIGTWF0TXVsEgZwb2xpY3laHAoBeBIXChUIARIR"
                  + "CgYSBHJvd3MKBxIFd2lkdGhaIgoBdxIdChsIARIXCgcSBXdpZHRoCgwSCnZvY2FidWxhcnli"
                  + "JgoGbG9naXRzEhwKGggBEhYKBhIEcm93cwoMEgp2b2NhYnVsYXJ5");

  private static final int ROWS = 4;
  private static final int WIDTH = 3;
  private static final int VOCABULARY = 5;

  private static FloatBuffer direct(int size) {
    return ByteBuffer.allocateDirect(size * Float.BYTES)
        .order(ByteOrder.nativeOrder())
        .asFloatBuffer();
  }

  public static void main(String[] args) throws OrtException {
    // tag::buffers[]
    FloatBuffer x = direct(ROWS * WIDTH);
    FloatBuffer w = direct(WIDTH * VOCABULARY);
    FloatBuffer logits = direct(ROWS * VOCABULARY);
    for (int i = 0; i < x.capacity(); i++) {
      x.put(i, i % 4 - 1);
    }
    for (int i = 0; i < w.capacity(); i++) {
      w.put(i, i % 7 * 0.5f);
    }
    OrtEnvironment environment = OrtEnvironment.getEnvironment();
    try (OrtSession session = environment.createSession(MODEL);
        OnnxTensor xTensor = OnnxTensor.createTensor(environment, x, new long[] {ROWS, WIDTH});
        OnnxTensor wTensor =
            OnnxTensor.createTensor(environment, w, new long[] {WIDTH, VOCABULARY});
        OnnxTensor output =
            OnnxTensor.createTensor(environment, logits, new long[] {ROWS, VOCABULARY});
        Context context = Context.cpu();
        Scope scope = context.scope()) {
      Tensor ours = Tensor.wrap(scope, logits, DType.F32, ROWS, VOCABULARY);
      // The output is given: ONNX Runtime writes to the buffer that Saccade reads.
      session.run(Map.of("x", xTensor, "w", wTensor), Set.of(), Map.of("logits", output)).close();
      Tensor tokens = SampleTokens.sample(scope, ours, new SampleTokens.Options(1, 7, 0));
      var scores = TokenLogProbs.forward(scope, ours, tokens, TokenLogProbs.Options.DEFAULT);
      System.out.println("tokens " + Arrays.toString(tokens.toInts()));
      System.out.println("log-probabilities " + Arrays.toString(scores.logProb().toFloats()));
      System.out.println("entropies " + Arrays.toString(scores.entropy().toFloats()));
    }
    // end::buffers[]
    for (int i = 0; i < ROWS * VOCABULARY; i++) {
      float expected = 0;
      for (int j = 0; j < WIDTH; j++) {
        expected += x.get(i / VOCABULARY * WIDTH + j) * w.get(j * VOCABULARY + i % VOCABULARY);
      }
      if (Math.abs(logits.get(i) - expected) > 1e-5) {
        throw new IllegalStateException("logits are not where they should be");
      }
    }
  }
}
