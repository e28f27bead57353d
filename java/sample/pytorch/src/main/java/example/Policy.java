package example;

import static org.bytedeco.pytorch.global.torch.arange;
import static org.bytedeco.pytorch.global.torch.relu;

import org.bytedeco.pytorch.EmbeddingImpl;
import org.bytedeco.pytorch.LinearImpl;
import org.bytedeco.pytorch.Module;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch;

/** A causal transformer of one layer, in PyTorch alone. */
final class Policy extends Module {
  final int heads;
  final int headDim;
  private final EmbeddingImpl tokens;
  private final EmbeddingImpl positions;
  private final LinearImpl qkv;
  private final LinearImpl out;
  private final LinearImpl up;
  private final LinearImpl down;
  private final LinearImpl head;

  Policy(int vocabulary, int length, int heads, int headDim) {
    this.heads = heads;
    this.headDim = headDim;
    int width = heads * headDim;
    tokens = register_module("tokens", new EmbeddingImpl(vocabulary, width));
    positions = register_module("positions", new EmbeddingImpl(length, width));
    qkv = register_module("qkv", new LinearImpl(width, 3L * width));
    out = register_module("out", new LinearImpl(width, width));
    up = register_module("up", new LinearImpl(width, 4L * width));
    down = register_module("down", new LinearImpl(4L * width, width));
    head = register_module("head", new LinearImpl(width, vocabulary));
  }

  /**
   * What a learning rule needs of a forward pass.
   *
   * @param logits [B·responses, vocabulary], of the last rows of every sequence
   * @param q [B·T, heads, headDim], a view into the fused projection: its rows have gaps
   * @param k [B·T, heads, headDim], likewise
   */
  record Pass(Tensor logits, Tensor q, Tensor k) {}

  /** Of tokens i64[B, T]. */
  Pass forward(Tensor input, long responses) {
    long b = input.size(0);
    long t = input.size(1);
    Tensor x =
        tokens
            .forward(input)
            .add(positions.forward(arange(new Scalar(t)).to(torch.ScalarType.Long)));
    Tensor projected = qkv.forward(x).view(b, t, 3, heads, headDim);
    Tensor q = projected.select(2, 0);
    Tensor k = projected.select(2, 1);
    Tensor v = projected.select(2, 2);
    Tensor attended = attention(q, k).matmul(v.transpose(1, 2)).transpose(1, 2).reshape(b, t, -1);
    x = x.add(out.forward(attended));
    x = x.add(down.forward(relu(up.forward(x))));
    Tensor logits = head.forward(x.narrow(1, t - responses, responses)).flatten(0, 1);
    return new Pass(logits, q.view(b * t, heads, headDim), k.view(b * t, heads, headDim));
  }

  /** Probabilities [B, heads, T, T] of queries and keys [B, T, heads, headDim]. */
  static Tensor attention(Tensor q, Tensor k) {
    long t = q.size(1);
    Tensor scores =
        q.transpose(1, 2).matmul(k.permute(0, 2, 3, 1)).mul(new Scalar(1 / Math.sqrt(q.size(3))));
    Tensor future = torch.ones(t, t).triu(1).to(torch.ScalarType.Bool);
    return scores.masked_fill(future, new Scalar(Double.NEGATIVE_INFINITY)).softmax(3);
  }
}
