package example;

import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import dev.saccade.TokenLogProbs;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.util.Arrays;
import org.bytedeco.javacpp.FloatPointer;
import org.bytedeco.javacpp.IntPointer;

/** Memory of others, in place. */
public final class Embed {
  public static void main(String[] args) {
    float[] expected = {-0.40760594f, -5.013386f};

    // tag::buffers[]
    FloatBuffer logits =
        ByteBuffer.allocateDirect(6 * Float.BYTES).order(ByteOrder.nativeOrder()).asFloatBuffer();
    logits.put(new float[] {1, 2, 3, 0, 0, 5}).flip();
    FloatBuffer logProbs =
        ByteBuffer.allocateDirect(2 * Float.BYTES).order(ByteOrder.nativeOrder()).asFloatBuffer();
    try (Context context = Context.cpu();
        Scope scope = context.scope()) {
      TokenLogProbs.forward(
          context,
          Tensor.wrap(scope, logits, DType.F32, 2, 3),
          Tensor.of(scope, new int[] {2, 0}),
          TokenLogProbs.Options.DEFAULT,
          new TokenLogProbs.Outputs(Tensor.wrap(scope, logProbs, DType.F32, 2), null, null));
    }
    System.out.println(logProbs.get(0) + " " + logProbs.get(1));
    // end::buffers[]
    require(expected, new float[] {logProbs.get(0), logProbs.get(1)});

    // tag::pointers[]
    try (FloatPointer pointer = new FloatPointer(1, 2, 3, 0, 0, 5);
        IntPointer targets = new IntPointer(new int[] {2, 0});
        Context context = Context.cpu();
        Scope scope = context.scope()) {
      var scores =
          TokenLogProbs.forward(
              scope,
              Tensor.wrap(scope, pointer, DType.F32, 2, 3),
              Tensor.wrap(scope, targets, DType.I32, 2),
              TokenLogProbs.Options.DEFAULT);
      System.out.println(Arrays.toString(scores.logProb().toFloats()));
      // end::pointers[]
      require(expected, scores.logProb().toFloats());

      // tag::addresses[]
      // Two matrices [2, 3] side by side: rows of the second one are 6 elements apart.
      FloatPointer both = new FloatPointer(9, 9, 9, 1, 2, 3, 9, 9, 9, 0, 0, 5);
      long address = both.address() + 3 * Float.BYTES;
      Tensor second =
          Tensor.wrap(scope, address, both, DType.F32, new long[] {2, 3}, new long[] {6, 1});
      // end::addresses[]
      require(new float[] {1, 2, 3, 0, 0, 5}, second.toFloats());
      both.close();
    }

    // tag::dlpack[]
    try (Context producer = Context.cpu();
        Context consumer = Context.cpu();
        Scope theirs = producer.scope();
        Scope ours = consumer.scope()) {
      Tensor tensor = Tensor.of(theirs, new float[] {1, 2, 3});
      long managed = tensor.toDlpack(); // a DLManagedTensor*, for whoever takes DLPack
      Tensor taken = Tensor.fromDlpack(ours, managed); // from whoever gives it
      theirs.close(); // the memory stays until the last of both has let go
      System.out.println(Arrays.toString(taken.toFloats()));
      // end::dlpack[]
      require(new float[] {1, 2, 3}, taken.toFloats());
    }
  }

  private static void require(float[] expected, float[] values) {
    for (int i = 0; i < expected.length; i++) {
      if (!(Math.abs(values[i] - expected[i]) <= 1e-5)) {
        throw new IllegalStateException(Arrays.toString(values));
      }
    }
  }
}
